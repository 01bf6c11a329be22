"""Robust PCA by guess and proof: an augmented Lagrangian finds rank and support, two projections finish and certify.

The guess is the inexact augmented Lagrangian method (Lin, Chen & Ma 2010) with a partial singular value decomposition
that starts from the last one. With rank and support known, alternating projections converge at the rate of the share
of outliers, to rounding; so do those onto `{P_T Z = U V^T}` and `{Z = lambda sign(S) on the support}`, whose
common point is a dual certificate if it is small enough elsewhere. The splitting takes over, from the guess, where it
is not.
"""

import dataclasses
import math
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flatmin._core import Outcome, Solution, UsageError, checked
from flatmin.measurements import observed_entries
from flatmin.solvers._base import AbstractMethod, AbstractProgram, select_method
from flatmin.solvers._solution import accepted, certified, fits_zero, zero
from flatmin.solvers.certificate import certify
from flatmin.solvers.douglas_rachford import DouglasRachford
from flatmin.solvers.misfits import HuberLoss, L1Loss
from flatmin.solvers.robust import RobustPCA, default_penalty

GROWTH, FIRST_WEIGHT = 1.5, 1.25
"""Of the augmented Lagrangian's weight, from `FIRST_WEIGHT / ||Y||_op`."""

GUESSED = 1e-7
"""Relative residual at which the guess stops."""

GUESS_STEPS, FINISH_STEPS, DUAL_STEPS = 60, 200, 400

SPARE_COLUMNS = 5
"""Columns that a partial decomposition keeps beyond the rank last seen."""

MARGIN = 0.99
"""Entries of the dual point off the support are kept below this share of lambda."""


class _Partial:
    """The leading singular triples of a slowly changing matrix, by subspace iteration from the last ones."""

    def __init__(self, shape: tuple[int, int]):
        self.basis = np.random.default_rng(0).normal(size=(shape[1], min(10, *shape)))

    def __call__(self, matrix: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All triples above a threshold (those are accurate where they are well apart from the rest)."""
        limit = min(matrix.shape)
        while True:
            for _ in range(2):
                left = np.linalg.qr(matrix @ self.basis)[0]
                self.basis = np.linalg.qr(matrix.T @ left)[0]
            U, s, Vt = np.linalg.svd((matrix @ self.basis), full_matrices=False)
            V = self.basis @ Vt.T
            rank = int(np.sum(s > threshold))
            if rank < s.size or s.size == limit:
                kept = min(rank + SPARE_COLUMNS, s.size)
                self.basis = V[:, :kept]
                if kept < rank + SPARE_COLUMNS <= limit:
                    self._grow(rank + SPARE_COLUMNS - kept)
                return U[:, :rank], s[:rank], V[:, :rank]
            self._grow(min(s.size, limit - s.size))

    def largest(self, matrix: np.ndarray) -> float:
        """Nearly the largest singular value, from below."""
        for _ in range(3):
            self.basis = np.linalg.qr(matrix.T @ np.linalg.qr(matrix @ self.basis)[0])[0]
        return float(np.linalg.norm(matrix @ self.basis, 2))

    def _grow(self, more: int) -> None:
        fresh = np.random.default_rng(self.basis.shape[1]).normal(size=(self.basis.shape[0], more))
        self.basis = np.linalg.qr(np.hstack([self.basis, fresh]))[0]


class Guess(NamedTuple):
    """Factors of X, where errors are, and the multipliers reached."""

    matrix: np.ndarray
    rank: int
    support: np.ndarray
    dual: np.ndarray


def _soft(matrix: np.ndarray, threshold: float) -> np.ndarray:
    return matrix - np.clip(matrix, -threshold, threshold)


def guess(observed: np.ndarray, seen: np.ndarray, penalty: float) -> Guess:
    """Rank, support and multipliers of `min ||X||_* + penalty ||(Y - X)_seen||_1`, roughly.

    Args:
        observed: Y, zero where unseen.
        seen: 1 where seen, 0 elsewhere.
        penalty: lambda.

    Returns:
        The guess.
    """
    partial = _Partial((observed.shape[0], observed.shape[1]))
    size = np.linalg.norm(observed)
    top = partial.largest(observed)
    weight = FIRST_WEIGHT / top
    Z = observed / max(top, np.abs(observed).max() / penalty)
    S = np.zeros_like(observed)
    X = S
    rank = 0
    for _ in range(GUESS_STEPS):
        # unseen entries are free: their error takes any value at no charge
        U, s, V = partial(observed - S + Z / weight, 1 / weight)
        rank = s.size
        X = (U * (s - 1 / weight)) @ V.T
        pulled = observed - X + Z / weight
        S = np.where(seen, _soft(pulled, penalty / weight), pulled)
        miss = observed - X - S
        Z = Z + weight * miss
        weight *= GROWTH
        if np.linalg.norm(miss) <= GUESSED * size:
            break
    return Guess(X, rank, seen & (np.abs(S) > 1e-5 * np.abs(S[seen]).max(initial=0.0)), Z)


def finish(observed: np.ndarray, free: np.ndarray, start: np.ndarray, rank: int):
    """The matrix of a given rank that equals Y off the free entries, by alternating projections.

    Args:
        observed: Y.
        free: where X need not equal Y.
        start: a point near it.
        rank: r.

    Returns:
        U, s, V^T of X and the relative residual off the free entries.
    """
    X, size, before = start, np.linalg.norm(observed[~free]), math.inf
    if size == 0:  # nothing but zeros outside of the guessed errors: no low-rank part to finish
        return None
    V = np.linalg.svd(start, full_matrices=False)[2][:rank].T if min(start.shape) < 100 else None
    if V is None:
        partial = _Partial((start.shape[0], start.shape[1]))
        V = partial(start, 1e-6 * float(np.linalg.norm(start)))[2][:, :rank]
        if V.shape[1] < rank:
            return None
    error, filled = math.inf, observed
    for _ in range(FINISH_STEPS):
        filled = np.where(free, X, observed)
        U = np.linalg.qr(filled @ V)[0]
        V = np.linalg.qr(filled.T @ U)[0]
        X = (filled @ V) @ V.T
        error = np.linalg.norm((X - observed)[~free]) / size
        if error < 1e-15 or (error < 1e-12 and error > 0.7 * before):
            break
        before = error
    left, s, Wt = np.linalg.svd(filled @ V, full_matrices=False)
    return left, s, (V @ Wt.T), error


def dual_point(
    U: np.ndarray,
    V: np.ndarray,
    signs: np.ndarray,
    support: np.ndarray,
    seen: np.ndarray,
    penalty: float,
    Z: np.ndarray,
) -> np.ndarray:
    """Z near the given one with `P_T Z = U V^T`, `Z = lambda sign(S)` on the support and 0 unseen; small elsewhere.

    Args:
        U: left singular vectors.
        V: right singular vectors.
        signs: signs of the errors.
        support: where the errors are.
        seen: where entries are seen.
        penalty: lambda.
        Z: where to start.

    Returns:
        Z, with a small error in the first condition; whether it proves anything is for the certificate to say.
    """
    target = U @ V.T
    fixed = np.where(support, penalty * signs, 0.0)
    loose = seen & ~support
    for _ in range(DUAL_STEPS):
        Z = np.where(loose, np.clip(Z, -MARGIN * penalty, MARGIN * penalty), fixed)
        miss = target - Z
        left = U.T @ miss
        move = U @ left + ((miss - U @ left) @ V) @ V.T
        Z = Z + move
        if np.linalg.norm(move) <= 1e-14 * np.linalg.norm(target):
            break
    return np.where(loose, Z, fixed)


@checked()
class RobustPursuit(AbstractMethod):
    """Guess, finish, prove; the choice of `Auto` for `RobustPCA`.

    Memory is about ten d1 x d2 matrices; a step of the guess costs `d1 d2 r`, in place of a singular value
    decomposition. `stats["pursued"]` says whether the guess was proved, `stats["outliers"]` is the matrix of errors
    found.

    Attributes:
        fallback: what to run, from the guess, where it was not.
    """

    fallback: DouglasRachford = dataclasses.field(default_factory=DouglasRachford)

    def run(
        self, program: AbstractProgram, tolerance: float, max_iterations: int, start: Solution | None = None
    ) -> Solution:
        """Guess, finish, prove, or fall back.

        Raises:
            UsageError: for another programme.
        """
        if not isinstance(program, RobustPCA):
            raise UsageError(f"method: got RobustPursuit for {type(program).__name__}, expected RobustPCA; use Auto()")
        if fits_zero(program):
            return zero(program, "RobustPursuit")
        began = time.perf_counter()
        d1, d2 = program.measurements.matrix_shape
        seen_at = observed_entries(program.measurements)
        rows, cols = np.divmod(np.arange(d1 * d2), d2) if seen_at is None else seen_at
        observed, seen = np.zeros((d1, d2)), np.zeros((d1, d2), bool)
        observed[rows, cols], seen[rows, cols] = np.asarray(program.targets), True
        match program.misfit:
            case L1Loss(weight=weight):
                penalty = float(weight)
            case _:
                penalty = default_penalty((d1, d2))
        noisy = isinstance(program.misfit, HuberLoss)
        made = guess(observed, seen, penalty) if start is None and not noisy else None
        if made is not None and 0 < made.rank < min(d1, d2) / 2:
            solution = self._proved(program, made, observed, seen, penalty, tolerance, began)
            if solution is not None:
                return solution
        if made is not None and isinstance(program.misfit, L1Loss):
            start = _as_start(made, rows, cols)
        spent = time.perf_counter() - began
        solution = self.fallback.run(program, tolerance, max_iterations, start)
        errors = np.where(seen, observed - np.asarray(solution.matrix), 0.0)
        if isinstance(program.misfit, HuberLoss):
            errors = np.asarray(program.misfit.errors(jnp.asarray(errors)))
        stats = {**solution.stats, "pursued": False, "outliers": errors}
        stats["seconds"] = {"pursue": spent, **solution.stats.get("seconds", {})}
        return dataclasses.replace(solution, stats=stats)

    def _proved(
        self,
        program: RobustPCA,
        made: Guess,
        observed: np.ndarray,
        seen: np.ndarray,
        penalty: float,
        tolerance: float,
        began: float,
    ) -> Solution | None:
        finished = finish(observed, made.support | ~seen, made.matrix, made.rank)
        if finished is None or finished[3] > 1e-10:
            return None
        U, s, V, _ = finished
        X = (U * s) @ V.T
        signs = np.sign(observed - X)
        Z = dual_point(U, V, signs, made.support, seen, penalty, np.zeros_like(X))
        rows, cols = np.nonzero(seen)
        certificate = certify(program, jnp.asarray(X), jnp.asarray(Z[rows, cols]))
        if not accepted(certificate, tolerance):
            return None
        errors = np.where(made.support, observed - X, 0.0)
        stats = {"pursued": True, "outliers": errors, "seconds": {"total": time.perf_counter() - began}}
        return certified(
            program,
            certificate,
            tolerance,
            method="RobustPursuit",
            iterations=0,
            shortfall=Outcome.stalled,
            stats=stats,
        )


def _as_start(made: Guess, rows: np.ndarray, cols: np.ndarray) -> Solution:
    return Solution(
        jnp.asarray(made.matrix),
        jnp.asarray(made.dual[rows, cols]),
        math.nan,
        math.nan,
        math.nan,
        math.nan,
        0,
        Outcome.stalled,
        "guess",
    )


@select_method.register
def _(program: RobustPCA) -> AbstractMethod:
    del program
    return RobustPursuit()
