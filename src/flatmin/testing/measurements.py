"""Laws of measurements: every question of `flatmin.measurements` against the dense tensor of the A_i."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flatmin import measurements as fm
from flatmin._core import Key, Optional, RealArray, checked
from flatmin._core.trees import floating_type
from flatmin.measurements import AbstractMeasurements
from flatmin.testing._errors import law, near

PARTS = ((None, None), ("S", None), (None, "T"), ("S", "T"))
NESTED = 200
"""Machine epsilons, relative to the same sum over absolute values: sums of some hundred terms, nested twice."""


@checked(tensor=Optional(RealArray("_m _d1 _d2", host=True)), key=Key())
def measurement_laws(op: AbstractMeasurements, tensor: Any = None, *, key: Any, dtype: DTypeLike | None = None) -> None:
    """What every verb relies on, checked on random matrices; for small operators, since the tensor is dense.

    Shapes; `forward` and `adjoint` are linear and adjoint to each other; the Gram forms and every other question, with
    and without S and T, and sub-batches by `take` are those of the dense tensor, compiled and eager; a batch by `vmap`
    is a loop; the pytree can be taken apart and put together; the precision of the matrices is kept.

    Args:
        op: the operator.
        tensor: its A_i, shape (m, d1, d2); default: read from `forward`, one entry at a time.
        key: random key of the matrices.
        dtype: floating type of the matrices; default: that of the operator's arrays.

    Raises:
        AssertionError: naming the law.
    """
    dtype = floating_type(op) if dtype is None else jnp.dtype(dtype)
    eps, m = float(jnp.finfo(dtype).eps), op.num_measurements
    indices = np.array([min(3, m - 1), 0, min(3, m - 1), min(1, m - 1)])
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    g, h, other = (given(rng, op.matrix_shape, m) for _ in range(3))
    first, second = typed(g, dtype), typed(h, dtype)
    with law("shapes"):
        near("shapes: of forward", op.forward(first["X"]).shape, (m,), 0)
        near("shapes: of adjoint", op.adjoint(first["y"]).shape, op.matrix_shape, 0)
    if tensor is None:
        units = jnp.eye(op.matrix_shape[0] * op.matrix_shape[1], dtype=dtype).reshape(-1, *op.matrix_shape)
        tensor = np.stack([op.forward(unit) for unit in units], axis=-1).reshape(m, *op.matrix_shape)
    tensor = np.asarray(tensor, np.float64)
    near("shapes: of the tensor", tensor.shape, (m, *op.matrix_shape), 0)
    bound = questions(np.abs(tensor) + np.abs(tensor).mean(), {k: np.abs(v) for k, v in g.items()}, indices)
    _linear(op, first, second, eps)
    with law("questions"):
        answers = _ask_jit(op, first, jnp.asarray(indices))
    expected = questions(tensor, g, indices)
    for name, value in expected.items():
        near(name, answers[name], value, NESTED * eps * np.max(bound[name]))
    for name in ("forward", "adjoint", "forward_product", "gram_form(S,T)", "kernel_form(S,T)", "take: gram_form"):
        if answers[name].dtype != dtype:
            raise AssertionError(f"dtype: {name} of {dtype} matrices is {answers[name].dtype}")
    with law("eager"):
        for name, value in _few(op, first).items():
            near(f"eager: {name}", value, expected[name], NESTED * eps * np.max(bound[name]))
    _mapped(op, [first, second, typed(other, dtype)], eps)
    leaves, structure = jax.tree.flatten(op)
    if not eqx.tree_equal(jax.tree.unflatten(structure, leaves), op):
        raise AssertionError("pytree: taken apart and put together it is another operator")


def given(rng: np.random.Generator, shape: tuple[int, int], size: int) -> dict[str, np.ndarray]:
    """Inputs of all questions: a matrix X, weights y, symmetric S and T, factors L and R, a general N."""
    d1, d2 = shape
    sizes = {"X": shape, "y": (size,), "S": (d1, d1), "T": (d2, d2), "L": (d1, 2), "R": (2, d2), "N": (d2, d2)}
    # numbers that single precision has exactly
    drawn = {k: rng.standard_normal(s).astype(np.float32).astype(np.float64) for k, s in sizes.items()}
    return {k: (v + v.T) / 2 if k in "ST" else v for k, v in drawn.items()}


def typed(g: dict[str, np.ndarray], dtype: DTypeLike) -> dict[str, jax.Array]:
    """The inputs in one floating type."""
    return {k: jnp.asarray(v, dtype) for k, v in g.items()}


def ask(op: AbstractMeasurements, g: dict[str, jax.Array], indices: jax.Array) -> dict[str, jax.Array]:
    """Every generic question with every combination of S and T."""
    S, T = g["S"], g["T"]
    out = {
        "forward": op.forward(g["X"]),
        "adjoint": op.adjoint(g["y"]),
        "row_gram": fm.row_gram(op),
        "row_gram(T)": fm.row_gram(op, T),
        "col_gram": fm.col_gram(op),
        "col_gram(S)": fm.col_gram(op, S),
        "moment_matrix": fm.moment_matrix(op),
        "entry_gram": fm.entry_gram(op),
        "materialise": fm.materialise(op),
        "forward_product": fm.forward_product(op, g["L"], g["R"]),
    }
    for a, b in PARTS:
        out[f"gram_form({a},{b})"] = fm.gram_form(op, S if a else None, T if b else None)
        out[f"kernel_form({a},{b})"] = fm.kernel_form(op, S if a else None, T if b else None)
    if op.matrix_shape[0] == op.matrix_shape[1]:
        out["twist_gram"] = fm.twist_gram(op, g["N"])
    few = fm.take(op, indices)
    out["take: forward"] = few.forward(g["X"])
    out["take: adjoint"] = few.adjoint(jnp.resize(g["y"], (len(indices),)))
    out["take: gram_form"] = fm.gram_form(few, S, T)
    return out


_ask_jit = eqx.filter_jit(ask)


def questions(A: np.ndarray, g: dict[str, np.ndarray], indices: np.ndarray) -> dict[str, np.ndarray]:
    """The same questions, typed from their definitions over the dense tensor A (m, d1, d2)."""
    (_m, d1, d2), few = A.shape, A[indices]
    S, T = {None: np.eye(d1), "S": g["S"]}, {None: np.eye(d2), "T": g["T"]}
    out = {
        "forward": np.einsum("iab,ab->i", A, g["X"]),
        "adjoint": np.einsum("iab,i->ab", A, g["y"]),
        "row_gram": np.einsum("iab,icb->ac", A, A),
        "row_gram(T)": np.einsum("iab,bd,icd->ac", A, g["T"], A),
        "col_gram": np.einsum("iab,iac->bc", A, A),
        "col_gram(S)": np.einsum("iab,ac,icd->bd", A, g["S"], A),
        "moment_matrix": np.einsum("iab,icd->abcd", A, A).reshape(d1 * d2, d1 * d2),
        "entry_gram": np.einsum("iab,iab->ab", A, A),
        "materialise": A,
        "forward_product": np.einsum("iab,ak,kb->i", A, g["L"], g["R"]),
    }
    for a, b in PARTS:
        out[f"gram_form({a},{b})"] = np.einsum("iab,ac,icd,db->", A, S[a], A, T[b])
        out[f"kernel_form({a},{b})"] = np.einsum("iab,ac,jcd,db->ij", A, S[a], A, T[b])
    if d1 == d2:
        out["twist_gram"] = np.einsum("iab,bc,icd->ad", A, g["N"], A)
    out["take: forward"] = np.einsum("iab,ab->i", few, g["X"])
    out["take: adjoint"] = np.einsum("iab,i->ab", few, np.resize(g["y"], len(indices)))
    out["take: gram_form"] = np.einsum("iab,ac,icd,db->", few, g["S"], few, g["T"])
    return out


def _few(op: AbstractMeasurements, g: dict[str, jax.Array]) -> dict[str, jax.Array]:
    form = fm.gram_form(op, g["S"], g["T"])
    return {"forward": op.forward(g["X"]), "adjoint": op.adjoint(g["y"]), "gram_form(S,T)": form}


def _linear(op: AbstractMeasurements, g: dict[str, jax.Array], h: dict[str, jax.Array], eps: float) -> None:
    X, Z, y, w = g["X"], h["X"], g["y"], h["y"]
    AX, AZ, By, Bw = op.forward(X), op.forward(Z), op.adjoint(y), op.adjoint(w)
    size = float(jnp.linalg.norm(AX) * jnp.linalg.norm(y) + jnp.linalg.norm(X) * jnp.linalg.norm(By))
    scale = size + float(jnp.linalg.norm(AZ) + jnp.linalg.norm(Bw))
    near("linearity: of forward", op.forward(2 * X - 3 * Z), 2 * AX - 3 * AZ, 100 * eps * scale)
    near("linearity: of adjoint", op.adjoint(2 * y - 3 * w), 2 * By - 3 * Bw, 100 * eps * scale)
    near("adjointness: <A(X), y> and <X, A*(y)>", jnp.vdot(AX, y), jnp.vdot(X, By), 100 * eps * size)


def _mapped(op: AbstractMeasurements, batch: list[dict[str, jax.Array]], eps: float) -> None:
    dynamic, static = eqx.partition(op, eqx.is_inexact_array)
    operators = [jax.tree.map(lambda x, c=c: c * x, dynamic) for c in (1.0, -2.0, 0.5)]

    def few(dynamic: Any, g: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return _few(eqx.combine(dynamic, static), g)

    with law("vmap"):
        stack = [jax.tree.map(lambda *xs: jnp.stack(xs), *trees) for trees in (operators, batch)]
        together = jax.jit(jax.vmap(few))(*stack)
    for i, (operator, g) in enumerate(zip(operators, batch, strict=True)):
        for name, value in few(operator, g).items():
            near(f"vmap: {name}", together[name][i], value, 500 * eps * float(jnp.max(jnp.abs(together[name]))))
