"""The dense solvers run on JAX in float64; estimators switch it on for their own solves only."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Float64 in this thread until the end of the block, whatever JAX is set to outside."""
    switch = getattr(jax, "enable_x64", None)
    if switch is None:  # before jax 0.9
        from jax.experimental import enable_x64 as switch  # pyright: ignore[reportAttributeAccessIssue]
    with switch(True):
        yield
