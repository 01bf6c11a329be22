"""From a programme to the working problem of a splitting: whitened, scaled to size one, or proved infeasible."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from flatmin._core import UsageError
from flatmin.solvers._base import AbstractProgram
from flatmin.solvers._plain import Plain
from flatmin.solvers._reweighted import gram_diagonal
from flatmin.solvers._splitting import Working, off_range, rescaled
from flatmin.solvers._whiten import whiten
from flatmin.solvers.misfits import AbstractMisfit, Exact, HuberLoss, L1Ball, L1Loss, L2Ball


class Prepared(NamedTuple):
    """A working problem for `X' / scale`.

    Attributes:
        work: the problem, scaled so that its minimum-Frobenius point has size one.
        scale: the scale.
        nearest: the minimum-Frobenius least-squares point, scaled.
        misfit: the programme's own misfit.
        unreached: the part of b that no X reaches, shape (m,).
        proof: multipliers that prove that nothing fits, or None.
    """

    work: Working
    scale: Array
    nearest: Float[Array, "d1 d2"]
    misfit: AbstractMisfit
    unreached: Float[Array, " m"]
    proof: Array | None

    def multipliers(self, weights: Float[Array, " k"]) -> Float[Array, " m"]:
        """The multipliers y of A for multipliers u of Q."""
        return off_range(self.misfit, self.work.white.multipliers(weights), self.unreached)


def prepare(program: AbstractProgram, plain: Plain) -> Prepared:
    """Whiten and scale.

    Args:
        program: the programme.
        plain: its plain form.

    Returns:
        The working problem.

    Raises:
        UsageError: for m too large for its Gram matrix, or an l1 misfit of measurements that are not single entries.
    """
    op, misfit = plain.measurements, program.misfit
    if isinstance(misfit, L1Loss | L1Ball | HuberLoss) and gram_diagonal(op) is None:
        instead = "take entries" if isinstance(misfit, HuberLoss) else "use Auto()"
        raise UsageError(
            f"misfit: got {type(misfit).__name__} for {type(op).__name__}, expected measurements of single entries "
            f"(entries, identity) without dense weights for a splitting; {instead}"
        )
    white, proof = whiten(op, program.targets, principal=not isinstance(misfit, Exact))
    nearest = white.adjoint(white.targets)
    unreached = jnp.zeros_like(program.targets)
    if not isinstance(misfit, Exact):
        unreached = white.unreached(program.targets)
    if isinstance(misfit, L2Ball):
        distance = jnp.linalg.norm(unreached)
        proof = None if distance < misfit.radius else unreached / (distance * (distance - misfit.radius))
    elif not isinstance(misfit, Exact):
        proof = None
    scale = plain.gauge.size(nearest)
    white = dataclasses.replace(white, targets=white.targets / scale)
    if proof is None:
        misfit = rescaled(misfit, scale, jnp.sum(unreached**2))
    return Prepared(Working(white, misfit, plain.gauge), scale, nearest / scale, program.misfit, unreached, proof)
