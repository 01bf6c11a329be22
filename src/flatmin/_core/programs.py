"""Compiled programs are let go once many are mapped: Linux ends a process that maps too much.

Each compiled program takes about six memory maps, and JAX keeps all of them: a process that solves problems of ever new
shapes would reach the limit (65,530 by default) at about a thousand shapes, and abort.
"""

import itertools
import pathlib

import jax

MAPS, LIMIT = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/sys/vm/max_map_count")
"""Where Linux lists what is mapped, one a line, and how many there may be."""

SHARE = 0.5
"""Of the limit, from which on programs are let go."""

EVERY = 32
"""Calls between two looks: a new shape takes some 70 maps, a look at many maps some milliseconds."""

_calls = itertools.count()


def let_go_of_programs() -> bool:
    """Clear JAX's caches if half of the maps that a process may have are taken; looks at every 32nd call only.

    What is still needed is compiled again when it is next called; no result changes.

    Returns:
        Whether the caches were cleared; False where the system does not tell.
    """
    if next(_calls) % EVERY or not MAPS.exists():
        return False
    try:
        many = MAPS.read_bytes().count(b"\n") > SHARE * int(LIMIT.read_text())
    except (OSError, ValueError):
        return False
    if many:
        jax.clear_caches()
    return many
