"""Parameterizations `params -> X` of a matrix, and the initialisation schemes they share.

The base class holds the shape, the map and the initialisation. What depends on both a parameterization and the
measurements (Hessian traces, tangent kernels) lives in `flatmin.flatness` and meets the measurements
only through their Gram forms.
"""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import Shown, UsageError
from flatmin._core.display import shape
from flatmin.parameterizations.schemes import AbstractScheme


class AbstractParameterization(Shown, eqx.Module):
    """A smooth map from parameters to a matrix."""

    def headline(self) -> str:
        """The matrix that is made; each kind's settings stand in its fields."""
        return f"a {shape(self.matrix_shape)} matrix from parameters"

    @property
    @abc.abstractmethod
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`, the shape of the matrix."""

    @abc.abstractmethod
    def matrix(self, params: PyTree) -> Float[Array, "d1 d2"]:
        """The matrix at `params`."""

    @abc.abstractmethod
    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> PyTree:
        """Parameters drawn or built by `scheme`.

        Raises:
            UsageError: if this parameterization has no such scheme.
        """


def unknown_scheme(parameterization: AbstractParameterization, scheme: AbstractScheme, known: str) -> UsageError:
    """The error for a scheme that a parameterization does not have."""
    return UsageError(
        f"scheme: {type(scheme).__name__} is not defined for {type(parameterization).__name__}; use one of {known}"
    )
