"""How a flatness is computed: values that the verbs take as `method`, each with the computation.

A method says by its base class what it provides: a trace (`AbstractTraceMethod`) or eigenvalues
(`AbstractEndsMethod`, both ends of the spectrum; `AbstractSpectrumMethod`, all eigenvalues).
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flatmin import linalg
from flatmin._core import Estimate, Instance, Integer, Optional, Outcome, UsageError, checked, is_traced
from flatmin.flatness.tangent_kernel import kernel_direction, residual_part_vanishes, stationary_spectrum
from flatmin.flatness.target import Target
from flatmin.flatness.trace_forms import block_traces, has_block_traces

Ends = tuple[str, ...]


class AbstractMethod(eqx.Module):
    """A way to compute a flatness."""


METHOD = Optional(Instance(AbstractMethod, what="a method such as Auto() or Dense()"))
"""Domain of `method`; which ones a verb takes, `resolve` says."""


class AbstractTraceMethod(AbstractMethod):
    """A way to compute the trace of the Hessian."""

    @abc.abstractmethod
    def trace(self, target: Target, key: Key[Array, ""] | None) -> Estimate:
        """The trace with its error."""


class AbstractEndsMethod(AbstractMethod):
    """A way to compute the ends of the spectrum."""

    @abc.abstractmethod
    def ends(self, target: Target, key: Key[Array, ""] | None, wanted: Ends) -> tuple[Estimate, ...]:
        """The wanted of "lowest" and "highest" eigenvalue, each with a residual bound."""


class AbstractSpectrumMethod(AbstractMethod):
    """A way to compute all eigenvalues."""

    @abc.abstractmethod
    def spectrum(self, target: Target) -> Estimate:
        """The eigenvalues, ascending, each with the same bound of their rounding."""


class Auto(AbstractMethod):
    """The best available: a closed form, else dense for few parameters, else matrix-free (see `select_method`)."""


class Exact(AbstractTraceMethod):
    """The closed form of a RecoveryProblem; valid at every point for traces.

    Where its parameterization has none (`register_block_traces`), one Hessian-vector product a parameter, as `Dense()`.
    """

    def blocks(self, target: Target) -> Estimate:
        """The trace of each factor's block."""
        if target.problem is None:
            raise UsageError(
                "method: Exact() needs a RecoveryProblem; use Dense(), Hutchinson() or XTrace() for a loss"
            )
        blocks = _jitted_block_traces(target.problem, target.params)
        if not has_block_traces(target.problem.parameterization):
            # |tr E_k| <= sqrt(p) ||E||_F, as for the whole
            size = target.hessian.size
            sums = 8 * jnp.finfo(blocks.dtype).eps * jnp.abs(blocks)
            return _measured(Estimate(blocks, sums, "rounding", "dense", size), size**0.5 * target.hessian.rounding())
        # a sum of non-negative products: n u to first order in the longest sum, times the nesting of the products
        longest = max(*target.problem.measurements.matrix_shape, 4)
        return Estimate(blocks, 50 * longest * jnp.finfo(blocks.dtype).eps * jnp.abs(blocks), "rounding", "closed form")

    def trace(self, target: Target, key: Key[Array, ""] | None) -> Estimate:
        """The sum of the blocks; no product where they have a closed form."""
        if target.problem is not None and not has_block_traces(target.problem.parameterization):
            return Dense().trace(target, key)
        blocks = self.blocks(target)
        return Estimate(jnp.sum(blocks.value), jnp.sum(blocks.error), "rounding", "closed form")


_jitted_block_traces = eqx.filter_jit(block_traces)


class Dense(AbstractTraceMethod, AbstractEndsMethod, AbstractSpectrumMethod):
    """All of the Hessian by autodiff; p products for a trace, memory p^2 for eigenvalues. Works for any JAX loss.

    Derivatives with respect to the parameters are those of `v^T H v` at fixed v: where an eigenvalue is repeated, a
    subgradient.
    """

    def trace(self, target: Target, key: Key[Array, ""] | None) -> Estimate:
        """The sum of the diagonal, by p products, a few at a time; the error is measured, see `FlatHessian.twin`."""
        hessian = target.hessian
        found = linalg.exact_trace(hessian.matvec, hessian.size, hessian.dtype)
        if hessian.dtype == jnp.float64:
            # |tr E| <= sqrt(p) ||E||_F
            return _measured(found, hessian.size**0.5 * hessian.rounding())
        twin = hessian.twin()
        if twin is None:
            return _measured(found, jnp.full((), jnp.nan, found.value.dtype))
        with jax.enable_x64(True):
            wide = linalg.exact_trace(twin.matvec, twin.size, twin.dtype).value
            away = jnp.abs(wide - found.value.astype(wide.dtype)).astype(found.value.dtype)
        return _measured(found, away)

    def ends(self, target: Target, key: Key[Array, ""] | None, wanted: Ends) -> tuple[Estimate, ...]:
        """Eigenvectors of the dense Hessian, then their residuals with its products."""
        H = jax.lax.stop_gradient(target.hessian.dense())
        unit = linalg.safe_norm(H)
        vectors = jnp.linalg.eigh(H / jnp.where(unit > 0, unit, 1))[1]
        size = target.hessian.size
        return tuple(_pair(target, vectors[:, 0 if end == "lowest" else -1], "dense", size) for end in wanted)

    def spectrum(self, target: Target) -> Estimate:
        """The eigenvalues of the dense Hessian."""
        H = target.hessian.dense()
        size, dtype = target.hessian.size, H.dtype
        fixed = jax.lax.stop_gradient(H)
        vectors = jnp.linalg.eigh(fixed)[1]
        values = jnp.sum(vectors * jnp.matmul(H, vectors, precision=jax.lax.Precision.HIGHEST), axis=0)
        error = 10 * size * jnp.finfo(dtype).eps * jnp.max(jnp.abs(jax.lax.stop_gradient(values)))
        found = Estimate(values, jnp.full_like(values, error), "rounding", "dense", size)
        return _measured(found, target.hessian.rounding())


class TangentKernel(AbstractEndsMethod, AbstractSpectrumMethod):
    """The tangent kernel `K` of a RecoveryProblem: exact where `A*(r) = 0` (interpolation, least-squares minima)."""

    def ends(self, target: Target, key: Key[Array, ""] | None, wanted: Ends) -> tuple[Estimate, ...]:
        """The direction `J^T u` of the top eigenvector u of K, and its residual with the whole Hessian."""
        if wanted != ("highest",):
            raise UsageError("method: TangentKernel() knows no negative curvature; use Dense() or Lanczos()")
        problem = self._problem(target, "Dense() or Lanczos()")
        vector, matvecs = kernel_direction(problem, target.params, target.hessian.dtype, _start(key))
        return (_pair(target, vector, "tangent kernel", matvecs),)

    def spectrum(self, target: Target) -> Estimate:
        """The eigenvalues of `(2/m) K`."""
        return stationary_spectrum(self._problem(target, "Dense() or spectral_density"), target.params)

    def _problem(self, target: Target, others: str):
        if target.problem is None:
            raise UsageError(f"method: TangentKernel() needs a RecoveryProblem; use {others} for a loss")
        if is_traced(*jax.tree.leaves((target.problem, target.params))):
            raise UsageError(
                "method: TangentKernel() looks at the residual and runs outside of jit, vmap, grad and records; use "
                "Dense(), or gauss_newton_spectrum at a minimiser"
            )
        if not residual_part_vanishes(target.problem, target.params):
            raise UsageError(
                "method: TangentKernel() is exact only where A*(r) = 0 (interpolation, least-squares minima), and "
                f"this point is not one; use {others}"
            )
        return target.problem


@checked(num_probes=Integer(2))
class Hutchinson(AbstractTraceMethod):
    """Hutchinson's stochastic trace, `linalg.hutchinson`; its memory is a few vectors.

    Attributes:
        num_probes: number of Hessian-vector products, at least 2.
    """

    num_probes: int = eqx.field(static=True, default=100)

    def trace(self, target: Target, key: Key[Array, ""] | None) -> Estimate:
        """The mean of `z^T H z` with its standard error."""
        h = target.hessian
        return linalg.hutchinson(h.matvec, h.size, h.dtype, num_probes=self.num_probes, key=needs_key(self, key))


@checked(num_matvecs=Integer(4))
class HutchPlusPlus(AbstractTraceMethod):
    """The Hutch++ stochastic trace, `linalg.hutch_plus_plus`: less error than Hutchinson's where eigenvalues decay.

    Attributes:
        num_matvecs: number of Hessian-vector products, at least 4.
    """

    num_matvecs: int = eqx.field(static=True, default=100)

    def trace(self, target: Target, key: Key[Array, ""] | None) -> Estimate:
        """The trace on a random range, and an estimate of the rest with its standard error."""
        h = target.hessian
        return linalg.hutch_plus_plus(h.matvec, h.size, h.dtype, num_matvecs=self.num_matvecs, key=needs_key(self, key))


@checked(num_matvecs=Integer(4))
class XTrace(HutchPlusPlus):
    """The name until 0.1 of `HutchPlusPlus`, for an even number of products.

    The spread of XTrace's leave-one-out values is no standard error; that of Hutch++ is.
    """

    def trace(self, target: Target, key: Key[Array, ""] | None) -> Estimate:
        """`linalg.xtrace`."""
        h = target.hessian
        return linalg.xtrace(h.matvec, h.size, h.dtype, num_matvecs=self.num_matvecs, key=needs_key(self, key))


@checked(max_matvecs=Integer(8))
class Lanczos(AbstractEndsMethod):
    """Lanczos with thick restarts for the ends of the spectrum, `linalg.lanczos_ends`; any JAX loss, not traced.

    Attributes:
        tolerance: of the residual, against the largest eigenvalue in size; 0 for machine precision.
        max_matvecs: budget of Hessian-vector products, at least 8; the best found is returned when it is spent.
    """

    tolerance: float = eqx.field(static=True, default=0.0)
    max_matvecs: int = eqx.field(static=True, default=5000)

    def ends(self, target: Target, key: Key[Array, ""] | None, wanted: Ends) -> tuple[Estimate, ...]:
        """The outermost Ritz vectors within the budget, and their residuals."""
        hessian = target.hessian
        if is_traced(*jax.tree.leaves((target.problem, hessian))):
            raise UsageError(
                "method: Lanczos() runs outside of jit, vmap, grad and records; use Dense(), which can be traced"
            )
        spent_after = 3 * len(wanted)  # one product and two of its rounding
        found = linalg.lanczos_ends(
            hessian.matvec,
            hessian.size,
            hessian.dtype,
            key=_start(key),
            ends=wanted,
            tolerance=self.tolerance,
            max_matvecs=self.max_matvecs - spent_after,
        )
        outcome = Outcome.completed if found.converged else Outcome.max_iterations
        return tuple(
            _pair(target, getattr(found, end), "lanczos", found.matvecs + spent_after - 3, outcome) for end in wanted
        )


def needs_key(method: AbstractMethod, key: Key[Array, ""] | None) -> Key[Array, ""]:
    """Return `key`, or say that it is missing."""
    if key is None:
        raise UsageError(f"key: {type(method).__name__} is stochastic; pass key=jax.random.key(...)")
    return key


def _start(key: Key[Array, ""] | None) -> Key[Array, ""]:
    """Of an iteration: without a key the fixed `jax.random.key(0)`, which every docstring says."""
    return jax.random.key(0) if key is None else key


def _measured(found: Estimate, rounding: Float[Array, ""], matvecs: int | None = None) -> Estimate:
    """The estimate with the measured rounding added to its error; kind "none" where it could not be measured."""
    matvecs = found.matvecs if matvecs is None else matvecs
    unknown = not is_traced(rounding) and bool(jnp.isnan(rounding)) and bool(jnp.all(jnp.isfinite(found.value)))
    if unknown:
        return Estimate(found.value, jnp.full_like(found.error, jnp.nan), "none", found.method, matvecs, found.outcome)
    return Estimate(found.value, found.error + rounding, found.error_kind, found.method, matvecs, found.outcome)


def _pair(target: Target, vector: Array, method: str, matvecs: int, outcome: Outcome = Outcome.completed) -> Estimate:
    """Rayleigh quotient of a vector with the true Hessian, and its residual with the measured rounding."""
    vector = jax.lax.stop_gradient(vector)
    value, residual = linalg.eigenpair_residual(target.hessian.matvec, vector)
    unit = vector / linalg.safe_norm(vector)
    found = Estimate(value, residual, "residual bound", method, matvecs + 3, outcome)
    return _measured(found, target.hessian.twin_difference(unit))
