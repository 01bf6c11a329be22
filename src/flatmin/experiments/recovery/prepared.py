"""What is fitted and what is held back; refusals before anything is computed."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from flatmin._core import UsageError, checked
from flatmin.datasets import RecoveryData
from flatmin.experiments.recovery.spec import CONVEX, LARGE, Recovery
from flatmin.measurements import AbstractMeasurements, LowRankMeasurements, observed_entries, take, unlinked
from flatmin.solvers.large import large_completion, largest_penalty

TINY = 0.01
"""Penalties below this share of the one that gives zero fit the noise, by many directions, and take long."""

MOST_DENSE = 1_000_000
"""Cells of the largest matrix whose singular values an iteration decomposes."""


_NOWHERE = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data cut into what is fitted and what is held back.

    Attributes:
        data: what was read.
        measurements: those that are fitted.
        targets: their targets.
        held: the measurements held back, None without.
        held_targets: their targets.
        notes: what a reader must know, in sentences.
        offset: what was taken out of the targets, and belongs to every entry of the answer.
        warnings: what a user should hear before a long computation, in sentences.
    """

    data: RecoveryData
    measurements: AbstractMeasurements
    targets: np.ndarray
    held: AbstractMeasurements | None
    held_targets: np.ndarray | None
    notes: tuple[str, ...]
    offset: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def restored(self) -> "Prepared":
        """The same in the user's numbers: with the offset put back."""
        return dataclasses.replace(self, targets=self.targets + self.offset, offset=0.0)

    @property
    def shape(self) -> tuple[int, int]:
        """`(d1, d2)`."""
        return self.measurements.matrix_shape

    @property
    def seen(self) -> np.ndarray:
        """True where an entry is fitted (completion only)."""
        return ~np.isnan(self.observed)

    @property
    def where(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each target (completion only)."""
        return observed_entries(self.measurements) or _NOWHERE

    @property
    def observed(self) -> np.ndarray:
        """The targets where they stand in the matrix, NaN where no entry is fitted."""
        known = np.full(self.shape, np.nan)
        rows, cols = self.where
        known[rows, cols] = self.targets[: len(rows)]
        return known


@checked()
def prepare(data: RecoveryData, spec: Recovery) -> Prepared:
    """Hold back a part, and look for what would make the answer meaningless.

    Args:
        data: what was read.
        spec: the settings.

    Returns:
        The cut data.

    Raises:
        UsageError: if the hold-out leaves nothing on one side, or the method cannot use these data.
    """
    _check_task(data, spec)
    op, targets, held, held_targets = data.measurements, data.targets, None, None
    if spec.holdout is not None:
        m = len(targets)
        count = round(spec.holdout * m)
        if not 0 < count < m:
            raise UsageError(
                f"holdout: got {spec.holdout} of m = {m} targets, which leaves {m - count} to fit and {count} to test; "
                "both need at least one"
            )
        order = np.random.default_rng([spec.seed, 1]).permutation(m)
        out, kept = np.sort(order[:count]), np.sort(order[count:])
        held, held_targets = take(op, jnp.asarray(out)), targets[out]
        op, targets = take(op, jnp.asarray(kept)), targets[kept]
    notes = list(data.notes)
    notes += _unseen(data, op, spec)
    if by_factors(spec, op) and not spec.noisy:
        shifted = targets - targets.mean() if spec.centre else targets
        raise UsageError(
            f"penalty: a matrix of {op.matrix_shape[0]} x {op.matrix_shape[1]} is completed by factors, which fit with "
            f"noise; give --penalty (lambda; about {_vanishing(op, shifted, spec):.3g} gives zero, a third of it is a "
            "start) or --radius (the norm of the noise)"
        )
    offset = 0.0
    if spec.centre:
        if not data.is_completion:
            raise UsageError(f"centre: applies to entries of a matrix, got {type(op).__name__}; leave it out")
        offset = float(targets.mean())
        targets = targets - offset
        notes.append(f"The mean of the fitted entries, {offset:.4g}, was taken out before and put back after.")
    if not targets.any():
        if spec.method == "label-noise":
            raise UsageError("targets: all are zero, which leaves label noise no scale; use --method nuclear")
        notes.append("All targets are zero, and so is the answer.")
    warnings = _warnings(op, targets, spec)
    return Prepared(data, op, targets, held, held_targets, (*notes, *warnings), offset, warnings)


def _warnings(op: AbstractMeasurements, targets: np.ndarray, spec: Recovery) -> tuple[str, ...]:
    if not by_factors(spec, op):
        if spec.max_time is not None:
            raise UsageError("max_time: applies where factors are fitted (large matrices); use --max-iterations")
        return ()
    if spec.penalty is None or not targets.any():
        return ()
    zero = _vanishing(op, targets, spec)
    if spec.penalty >= TINY * zero:
        return ()
    limit = "--max-time stops it" if spec.max_time is None else f"it stops after {spec.max_time:g} s"
    sentence = (
        f"The penalty {spec.penalty:.3g} is {spec.penalty / zero:.1g} of {zero:.3g}, from which on the answer is zero. "
        f"It fits the noise too, by factors of high rank, and may take many minutes; {limit} with what is reached. A "
        f"third of {zero:.3g} is a start."
    )
    return (sentence,)


def _vanishing(op: AbstractMeasurements, targets: np.ndarray, spec: Recovery) -> float:
    """The penalty from which on the answer is zero."""
    rows, cols = observed_entries(op) or _NOWHERE
    weighting = "flat" if spec.method == "flat" else "plain"
    return largest_penalty(
        large_completion(rows, cols, targets, op.matrix_shape, penalty=1.0, weighting=weighting, reduce=True)
    )


def by_factors(spec: Recovery, op: AbstractMeasurements) -> bool:
    """Whether the solver for large completions is used: beyond `MOST_DENSE` cells, or with noise beyond `LARGE`."""
    if observed_entries(op) is None or spec.task == "robust-pca" or spec.method not in CONVEX:
        return False
    cells = math.prod(op.matrix_shape)
    return cells > MOST_DENSE or (spec.noisy and (cells > LARGE or spec.reduce))


def _check_task(data: RecoveryData, spec: Recovery) -> None:
    op, task = data.measurements, spec.task
    if task in ("completion", "robust-pca") and not data.is_completion:
        raise UsageError(
            f"task: {task} needs entries of the matrix, got {type(op).__name__}; use --task sensing or covariance"
        )
    if task == "sensing" and data.is_completion:
        raise UsageError("task: sensing needs measurements (.npz), got entries of the matrix; use --task completion")
    if task == "covariance" and not (
        isinstance(op, LowRankMeasurements) and np.array_equal(np.asarray(op.left), np.asarray(op.right))
    ):
        raise UsageError(
            f"task: covariance needs vectors x with A_i = x_i x_i^T (an .npz archive with x and b), got "
            f"{type(op).__name__}; use --task sensing or completion"
        )


def _unseen(data: RecoveryData, op: AbstractMeasurements, spec: Recovery) -> list[str]:
    seen, notes = observed_entries(op), []
    if seen is None:
        return notes
    loose = None if spec.task == "robust-pca" else unlinked(*seen, op.matrix_shape)
    if loose is not None:
        notes.append(f"{loose[0].upper()}{loose[1:]}.")
    labelled = (data.row_labels, data.column_labels)
    axes = zip(("row", "column"), seen, op.matrix_shape, labelled, strict=True)
    filled = "the mean that was taken out" if spec.centre else "0"
    for line, indices, size, labels in axes:
        empty = np.flatnonzero(np.bincount(indices, minlength=size) == 0)
        if not empty.size:
            continue
        names = ", ".join(str(i) if labels is None else labels[i] for i in empty[:5])
        names += ", …" if empty.size > 5 else ""
        what = f"{empty.size} {line}(s) have no entry to fit ({names})"
        if spec.reduce:
            notes.append(f"{what}: the programme was reduced to the seen part, these get {filled}.")
            continue
        if spec.method in ("label-noise", "flat") and spec.task != "robust-pca":
            who = spec.method.replace("label-noise", "label noise").replace("flat", "the flat norm")
            raise UsageError(
                f"data: {what}; {who} weighs each {line} by how often it is seen and leaves these undetermined; "
                "drop them, lower --holdout or --missing, or use --method nuclear"
                + ("; with --penalty or --radius, --reduce leaves them out" if spec.method == "flat" else "")
            )
        notes.append(f"{what}: the {spec.method} norm says nothing about them, they get {filled}.")
    return notes
