"""Compiled programs that are let go.

`jax.jit` and `equinox.filter_jit` keep a program for as long as the function lives that it was made of, and a static
argument keeps its function alive for ever: with one lambda a mini-batch, every batch stays in memory, as a constant of
its program. Here only the last few programs are kept, and the arrays that a function closes over are arguments of
them.
"""

import collections
import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from flatmin._core import Function, checked

F = TypeVar("F", bound=Callable[..., Any])

KEPT = 8
"""Programs kept: enough for the handful of losses and measures of one script; each holds the arrays it closes over."""


class _Program(NamedTuple):
    run: Callable[..., Any]
    constants: list[Any]
    structure: Any


_programs: collections.OrderedDict[Any, _Program] = collections.OrderedDict()
_lock = threading.Lock()
_CONFIG = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_rank_promotion", "jax_debug_nans")


@checked(function=Function())
def compiled(function: F) -> F:
    """Compile `function`, once for each shape of its arrays and each value of everything else.

    Under `jit`, `vmap` and `grad` the function is inlined. Arrays (of JAX and NumPy) anywhere in the arguments may
    change without compilation; so may those that a function among them closes over, when it is the same function.

    Args:
        function: a function of trees of arrays and hashable values, that returns a tree of arrays.

    Returns:
        The same function, compiled.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        dynamic, static = eqx.partition(args, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
        leaves, structure = jax.tree.flatten(dynamic)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return function(*args)
        rest, around = jax.tree.flatten(static)
        key = (
            function,
            *(structure, around, tuple((type(x), x) for x in rest)),
            tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves),
            tuple(getattr(jax.config, name) for name in _CONFIG),
        )
        try:
            with _lock:
                program = _programs.pop(key, None)
        except TypeError:  # something unhashable among the arguments
            return function(*args)
        if program is None:
            program = _compile(function, structure, static, leaves)
            if any(isinstance(constant, Tracer) for constant in program.constants):
                return function(*args)  # a function that closes over a traced value
        with _lock:
            _programs[key] = program
            while len(_programs) > KEPT:
                _programs.popitem(last=False)
        return jax.tree.unflatten(program.structure, program.run(program.constants, leaves))

    return call  # pyright: ignore[reportReturnType]


def _compile(function: Callable[..., Any], structure: Any, static: Any, leaves: list[Any]) -> _Program:
    def flat(*leaves: Any) -> Any:
        return function(*eqx.combine(jax.tree.unflatten(structure, leaves), static))

    closed, shape = jax.make_jaxpr(flat, return_shape=True)(*leaves)

    def run(constants: list[Any], leaves: list[Any]) -> list[Any]:
        return jaxpr_as_fun(ClosedJaxpr(jaxpr, constants))(*leaves)

    jaxpr = closed.jaxpr
    return _Program(jax.jit(run), list(closed.consts), jax.tree.structure(shape))
