"""Sums of parameterizations: low rank plus sparse."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PyTree

from flatmin._core import Instance, SequenceOf, UsageError, checked
from flatmin.parameterizations._base import AbstractParameterization, unknown_scheme
from flatmin.parameterizations.params import check_params, params_shape
from flatmin.parameterizations.schemes import AbstractScheme, Balanced, Flattest


@checked(parts=SequenceOf(Instance(AbstractParameterization), least=1))
class Sum(AbstractParameterization):
    """`X = X_1(p_1) + X_2(p_2) + ...`; params are the tuple `(p_1, p_2, ...)`.

    Robust PCA is a deep matrix plus `Hadamard(shape, 1)`, a free matrix.

    Attributes:
        parts: the terms, of equal shape.
    """

    parts: tuple[AbstractParameterization, ...] = eqx.field(converter=tuple)

    def __check_init__(self):
        shapes = {part.matrix_shape for part in self.parts}
        if len(shapes) != 1:
            raise UsageError(f"parts: got matrix shapes {sorted(shapes)}, expected one or more parts of one shape")

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.parts[0].matrix_shape

    def matrix(self, params: PyTree) -> Float[Array, "d1 d2"]:
        """The sum; raises `UsageError` for params of another number, shape or type."""
        if params_shape(self) is not None:
            params = check_params(self, params)
        elif not isinstance(params, tuple | list) or len(params) != len(self.parts):
            # a part declares nothing, and the check of the whole would ask for this very matrix
            count = f"{len(params)} factors" if isinstance(params, tuple | list) else f"a {type(params).__name__}"
            raise UsageError(f"params: got {count}, expected a tuple of the params of all {len(self.parts)} parts")
        first, *rest = (part.matrix(check_params(part, p)) for part, p in zip(self.parts, params, strict=True))
        return sum(rest, start=first)

    @checked()
    def init_params(self, key: Key[Array, ""], scheme: AbstractScheme) -> tuple[PyTree, ...]:
        """Every part by the same scheme, with its own key.

        Raises:
            UsageError: for a scheme that a part does not have, or one that starts from a given matrix: how to split it
                over the parts is not known.
        """
        if isinstance(scheme, Balanced | Flattest):
            raise unknown_scheme(self, scheme, "Gaussian, Small, or init_params of each part")
        keys = jax.random.split(key, len(self.parts))
        return tuple(part.init_params(k, scheme) for part, k in zip(self.parts, keys, strict=True))


@params_shape.register
def _(parameterization: Sum):
    parts = tuple(params_shape(part) for part in parameterization.parts)
    return None if any(part is None for part in parts) else parts
