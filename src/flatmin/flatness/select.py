"""`select_method`: what `Auto()` chooses, for every verb."""

from jaxtyping import PyTree

from flatmin._core import Choice, UsageError, checked
from flatmin.flatness.methods import (
    AbstractEndsMethod,
    AbstractMethod,
    AbstractSpectrumMethod,
    AbstractTraceMethod,
    Auto,
    Dense,
    Exact,
    Hutchinson,
    HutchPlusPlus,
    Lanczos,
    TangentKernel,
)
from flatmin.flatness.tangent_kernel import residual_part_vanishes
from flatmin.flatness.target import OF_POINT, Loss, LossOrProblem, Target, target_of
from flatmin.flatness.trace_forms import has_block_traces
from flatmin.problems import RecoveryProblem

DENSE_LIMIT = 1000
"""Parameters up to which all products are made: for a trace by the other methods they are 10 times their 100, here
exact; for the ends of a spectrum Lanczos needs hundreds."""

PRODUCTS_LIMIT = 10_000
"""Parameters up to which the trace of a problem without a closed form is exact: one product each, of a cheap
loss."""

SKETCH_LIMIT = 100_000
"""Parameters up to which Hutch++ is the choice; it holds about 130 vectors, Hutchinson a few."""

SPECTRUM_LIMIT = 3000
"""Parameters up to which a dense Hessian is formed unasked, for all eigenvalues or because nothing else is traced."""

_BASES = {
    "hessian_trace": (
        AbstractTraceMethod,
        "compute a trace; use Auto(), Exact(), Dense(), Hutchinson() or HutchPlusPlus()",
    ),
    "sharpness": (
        AbstractEndsMethod,
        "compute an eigenvalue; use Auto(), TangentKernel(), Dense() or Lanczos()",
    ),
    "lowest_curvature": (AbstractEndsMethod, "compute an eigenvalue; use Auto(), Dense() or Lanczos()"),
    "curvature_range": (
        AbstractEndsMethod,
        "give both ends of the spectrum; use Auto(), Dense() or Lanczos()",
    ),
    "spectrum": (AbstractSpectrumMethod, "give the spectrum of this object; use Auto() or Dense()"),
}
VERBS = tuple(_BASES)


@checked(**OF_POINT, verb=Choice(*VERBS))
def select_method(
    verb: str, problem_or_fn: RecoveryProblem | Loss, params: PyTree, batch: PyTree = None
) -> AbstractMethod:
    """The method that `Auto()` chooses, without running it.

    Args:
        verb: "hessian_trace", "sharpness", "lowest_curvature", "curvature_range" or "spectrum".
        problem_or_fn: a recovery problem, or any scalar JAX loss of the parameters (and a batch).
        params: the point. The choice for the sharpness and the spectrum of a problem depends on its values, except
            under jit, vmap, grad and in records, where it is `Dense()`.
        batch: second argument of the loss.

    Returns:
        Traces: `Exact()` for recovery problems with a closed form, else `Dense()` up to `DENSE_LIMIT` parameters
        (`PRODUCTS_LIMIT` for the other recovery problems), else
        `HutchPlusPlus()`, and `Hutchinson()` beyond `SKETCH_LIMIT`. Eigenvalues: `TangentKernel()` where the residual
        part of a problem's Hessian vanishes, else `Dense()` for few parameters, else `Lanczos()`.

    Raises:
        UsageError: for another verb, and where no method can be traced or none applies.
    """
    return _select(verb, target_of(problem_or_fn, params, batch))


def resolve(verb: str, method: AbstractMethod | None, target: Target) -> AbstractMethod:
    """The method that was given, if it provides what the verb asks for, or the one that `Auto()` chooses.

    Raises:
        UsageError: for a method that does not apply.
    """
    if method is None or isinstance(method, Auto):
        return _select(verb, target)
    base, instead = _BASES[verb]
    if not isinstance(method, base):
        raise UsageError(f"method: {type(method).__name__} does not {instead}")
    return method


def _select(verb: str, target: Target) -> AbstractMethod:
    size = target.hessian.size
    if verb == "hessian_trace":
        if target.problem is not None and has_block_traces(target.problem.parameterization):
            return Exact()
        if size <= (DENSE_LIMIT if target.problem is None else PRODUCTS_LIMIT):
            return Dense()
        return HutchPlusPlus() if size <= SKETCH_LIMIT else Hutchinson()
    if target.traced:
        if size <= SPECTRUM_LIMIT:
            return Dense()
        raise UsageError(
            f"method: nothing for {size} parameters can be traced within {SPECTRUM_LIMIT}^2 of memory; call {verb} "
            "outside of jit, vmap, grad and records, or pass Dense()"
        )
    kernel = target.problem if verb in ("sharpness", "spectrum") else None
    if kernel is not None and residual_part_vanishes(kernel, target.params):
        return TangentKernel()
    if verb != "spectrum":
        return Dense() if size <= DENSE_LIMIT else Lanczos()
    if size > SPECTRUM_LIMIT:
        raise UsageError(
            f"params: {size} parameters at a point that does not interpolate are too many for all eigenvalues "
            f"(limit {SPECTRUM_LIMIT}); use spectral_density, or method=Dense() if the memory is there"
        )
    return Dense()


@checked(problem_or_fn=LossOrProblem())
def trace_method(problem_or_fn: RecoveryProblem | Loss, params: PyTree) -> AbstractMethod:
    """The name until 0.1 of `select_method("hessian_trace", problem_or_fn, params)`."""
    return select_method("hessian_trace", problem_or_fn, params)


@checked(problem_or_fn=LossOrProblem())
def sharpness_method(problem_or_fn: RecoveryProblem | Loss, params: PyTree) -> AbstractMethod:
    """The name until 0.1 of `select_method("sharpness", problem_or_fn, params)`."""
    return select_method("sharpness", problem_or_fn, params)
