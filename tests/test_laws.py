"""The laws of `flatmin.testing`: each of them fails for a class that breaks it, and says which."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flatmin.flatness import register_block_traces
from flatmin.measurements import AbstractMeasurements, row_gram, take
from flatmin.parameterizations import AbstractParameterization, Sum, deep_matrix
from flatmin.testing import measurement_laws, parameterization_laws
from registry import numbers

KEY = jax.random.key(3)


class Own(AbstractMeasurements):
    """A dense operator that registers nothing."""

    tensor: jax.Array = eqx.field(default_factory=lambda: jnp.asarray(numbers(1, 4, 2, 3)))

    @property
    def matrix_shape(self):
        return self.tensor.shape[1:]

    @property
    def num_measurements(self):
        return self.tensor.shape[0]

    def forward(self, matrix):
        return jnp.einsum("iab,ab->i", self.tensor, matrix)

    def adjoint(self, weights):
        return jnp.einsum("iab,i->ab", self.tensor, weights)


class Affine(Own):
    def forward(self, matrix):
        return super().forward(matrix) + 1


class Flipped(Own):
    def adjoint(self, weights):
        return -super().adjoint(weights)


class Column(Own):
    def forward(self, matrix):
        return super().forward(matrix)[:, None]


class Branching(Own):
    def forward(self, matrix):
        return super().forward(matrix) if matrix[0, 0] < 1e9 else matrix[0]


class Wide(Own):
    def forward(self, matrix):
        return super().forward(matrix).astype(jnp.float64)


class WrongGram(Own):
    pass


class WrongTake(Own):
    pass


class Remembering(Own):
    """Another operator once it is compiled."""

    def forward(self, matrix):
        return super().forward(matrix) * (1 if isinstance(matrix, jax.core.Tracer) else 1 + 1e-9)

    def adjoint(self, weights):
        return super().adjoint(weights) * (1 if isinstance(weights, jax.core.Tracer) else 1 + 1e-9)


class Calling(Own):
    """A call to the host that no batch goes through."""

    def forward(self, matrix):
        out = jax.ShapeDtypeStruct((self.tensor.shape[0],), matrix.dtype)
        return jax.pure_callback(lambda A, X: np.einsum("iab,ab->i", A, X), out, self.tensor, matrix)


row_gram.register(WrongGram, lambda op, T=None: 2 * jnp.eye(2))
take.register(WrongTake, lambda op, indices: WrongTake(op.tensor[: len(indices)]))

MEASUREMENTS = {
    "linearity": Affine,
    "adjointness": Flipped,
    "shapes": Column,
    "questions: raises TracerBoolConversionError": Branching,
    "row_gram: away": WrongGram,
    "take: forward": WrongTake,
    "eager": Remembering,
    "vmap": Calling,
}


def test_own_measurements_keep_the_laws():
    measurement_laws(Own(), key=KEY)
    measurement_laws(Own(jnp.asarray(numbers(2, 1, 2, 2))), numbers(2, 1, 2, 2), key=KEY)
    measurement_laws(Own(jnp.asarray(numbers(1, 4, 2, 3), jnp.float32)), key=KEY)


@pytest.mark.parametrize("law", MEASUREMENTS)
def test_a_broken_law_of_measurements_is_named(law, unchecked):
    with pytest.raises(AssertionError, match=f"^{law}"):
        measurement_laws(MEASUREMENTS[law](), numbers(1, 4, 2, 3), key=KEY)


def test_broken_precision_and_another_tensor_are_named(unchecked):
    with pytest.raises(AssertionError, match=r"^dtype: forward of float32 matrices is float64"):
        measurement_laws(Wide(jnp.asarray(numbers(1, 4, 2, 3), jnp.float32)), key=KEY)
    with pytest.raises(AssertionError, match=r"^forward: away by"):
        measurement_laws(Own(), numbers(2, 4, 2, 3), key=KEY)


class Curve(AbstractParameterization):
    """`s * outer(u, u)`: a dictionary of params."""

    @property
    def matrix_shape(self):
        return 3, 3

    def matrix(self, params):
        return params["s"] * jnp.outer(params["u"], params["u"])

    def init_params(self, key, scheme):
        return {"s": scheme.scale, "u": scheme.scale * jax.random.normal(key, (3,))}


class Tall(Curve):
    def matrix(self, params):
        return super().matrix(params)[:2]


class Concrete(Curve):
    def matrix(self, params):
        return super().matrix(params) if float(params["s"]) < 1e9 else jnp.zeros((3, 3))


class Compiled(Curve):
    def matrix(self, params):
        return super().matrix(params) * (1 if isinstance(params["s"], jax.core.Tracer) else 1.01)


class Double(Curve):
    def matrix(self, params):
        return super().matrix(params).astype(jnp.float64)


class Kink(Curve):
    def matrix(self, params):
        return super().matrix(params) + jnp.sqrt(params["s"] - jax.lax.stop_gradient(params["s"]))


class Forgetful(Curve):
    def init_params(self, key, scheme):
        return {"s": scheme.scale, "u": jnp.asarray(np.random.default_rng().standard_normal(3))}


class WrongForm(Curve):
    pass


register_block_traces(WrongForm)(lambda problem, params: jnp.ones(2))

PARAMETERIZATIONS = {
    "shape": Tall,
    "jit: raises ConcretizationTypeError": Concrete,
    "jit: the compiled": Compiled,
    "gradient: not finite": Kink,
    "init": Forgetful,
    "block traces: against": WrongForm,
}


def test_own_parameterizations_keep_the_laws():
    parameterization_laws(Curve(), key=KEY)
    params = {"s": jnp.ones((), jnp.float32), "u": jnp.asarray(numbers(5, 3), jnp.float32)}
    parameterization_laws(
        Sum((Curve(), deep_matrix((3, 3), 1))), ({"s": jnp.ones(()), "u": jnp.ones(3)}, (jnp.eye(3),)), key=KEY
    )
    parameterization_laws(Curve(), params, key=KEY)
    with pytest.raises(AssertionError, match=r"^dtype: the matrix of float32 params is float64"):
        parameterization_laws(Double(), params, key=KEY)
    with pytest.raises(AssertionError, match=r"^params: raises UsageError"):
        parameterization_laws(Curve(), {"s": jnp.ones(())}, key=KEY)


@pytest.mark.parametrize("law", PARAMETERIZATIONS)
def test_a_broken_law_of_parameterizations_is_named(law, unchecked):
    with pytest.raises(AssertionError, match=f"^{law}"):
        parameterization_laws(PARAMETERIZATIONS[law](), key=KEY)
