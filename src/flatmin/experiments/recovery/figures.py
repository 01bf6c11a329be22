"""The recovered matrix beside what was seen, its singular values, its predictions, and the training."""

import math

import numpy as np

from flatmin.experiments.figures import Axis, Figure, ImagePanel, Panel, ReferenceLine, Series
from flatmin.experiments.recovery.diagnosis import predict
from flatmin.experiments.recovery.label_noise import Trained
from flatmin.experiments.recovery.prepared import Prepared

MOST_ROWS, MOST_COLUMNS, MOST_POINTS, TILES = 512, 768, 600, 8
MOST_CROSSED, DETAIL = 10_000, 96
TINY = 1e-16


def figures(
    prepared: Prepared,
    matrix: np.ndarray,
    rank_tolerance: float,
    trained: Trained | None,
    method: str,
    errors: np.ndarray | None = None,
) -> list[Figure]:
    """All figures of a recovery.

    Args:
        prepared: the cut data.
        matrix: the recovered matrix, without the offset.
        rank_tolerance: singular values below it count as zero.
        trained: the run of label noise, None for convex methods.
        method: the method's name.
        errors: the sparse part of robust PCA, None for other tasks.

    Returns:
        The figures.
    """
    values, (prepared, matrix) = matrix, (prepared.restored, matrix + prepared.offset)
    pictures = _matrices(prepared, matrix) if errors is None else [_split(prepared, matrix, errors)]
    drawn = [*pictures, _singular_values(prepared, values, rank_tolerance)]
    scatter = _scatter(prepared, matrix)
    drawn += [scatter] if scatter else []
    drawn += [_training(trained)] if trained else []
    return drawn


def _matrices(prepared: Prepared, matrix: np.ndarray) -> list[Figure]:
    truth, data = prepared.data.truth, prepared.data
    pictures = {"Recovered": matrix} if truth is None else {"Recovered": matrix, "True": truth}
    reference = truth if truth is not None else prepared.targets if data.is_completion else matrix
    limits = (float(np.min(reference)), float(np.max(reference)))
    if limits[0] == limits[1]:
        limits = (limits[0] - 0.5, limits[1] + 0.5)
    noun = "picture" if data.image or data.tile else "matrix"
    share = f"{len(prepared.targets):,} of {matrix.size:,} entries are fitted. " if data.is_completion else ""

    def figure(key: str, title: str, shown: dict[str, np.ndarray], caption: str) -> Figure:
        # four digits of the grey scale are more than an eye sees; matrix.npy has all
        digits = 4 - math.floor(math.log10(limits[1] - limits[0]))
        panels = tuple(ImagePanel(name, np.round(values, digits), limits) for name, values in shown.items())
        return Figure(key, title, f"{share}{caption}All panels have the same grey scale.", panels)

    if not data.is_completion:
        return [figure("recovered", f"The recovered {noun}", *_part(pictures, data.tile))]
    with_seen = {"Seen": prepared.observed, **pictures}
    shown, part = _part(with_seen, data.tile)
    if shown["Seen"].size <= MOST_CROSSED:
        return [figure("recovered", f"The recovered {noun}", shown, part)]
    # crosses cannot be seen, nor drawn in reasonable time, on so many entries: show what was seen on a part
    whole = figure("recovered", f"The recovered {noun}", *_part(pictures, None))
    corner, detail = _middle(with_seen)
    return [whole, figure("detail", "What was seen, on a part", detail, corner)]


def _split(prepared: Prepared, matrix: np.ndarray, errors: np.ndarray) -> Figure:
    """What was seen, the low-rank part, and the size of the errors, of pictures as pictures."""
    limits = (float(np.min(prepared.targets)), float(np.max(prepared.targets)))
    limits = limits if limits[0] < limits[1] else (limits[0] - 0.5, limits[1] + 0.5)
    digits = 4 - math.floor(math.log10(limits[1] - limits[0]))
    largest = max(float(np.abs(errors).max()), 10.0**-digits)
    tile = prepared.data.tile
    parts = {"Seen": prepared.observed, "Low rank": matrix, "Errors, absolute": np.abs(errors)}
    if tile is None:
        shown, caption = _part(parts, None)
    else:
        chosen = np.unique(np.linspace(0, len(matrix) - 1, 4).round().astype(int))
        shown = {name: np.vstack([_tile(values, row, tile) for row in chosen]) for name, values in parts.items()}
        caption = f"Rows {', '.join(map(str, chosen))}, counted from 0, each as the picture that it holds. "
    panels = tuple(
        ImagePanel(name, np.round(values, digits), (0.0, largest) if name.startswith("Errors") else limits)
        for name, values in shown.items()
    )
    share = float(np.mean(np.abs(errors) > 1e-3 * largest))
    return Figure(
        "split",
        "The low-rank part and the errors",
        f"{caption}The errors are drawn from 0 (black) to the largest, {largest:.3g} (white); {share:.0%} of them are "
        "above a thousandth of it.",
        panels,
    )


def _middle(pictures: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    rows, columns = next(iter(pictures.values())).shape
    top, left = max(0, (rows - DETAIL) // 2), max(0, (columns - DETAIL) // 2)
    bottom, right = min(rows, top + DETAIL), min(columns, left + DETAIL)
    cut = {name: values[top:bottom, left:right] for name, values in pictures.items()}
    return f"Rows {top} to {bottom - 1} and columns {left} to {right - 1}, counted from 0. ", cut


def _part(pictures: dict[str, np.ndarray], tile: tuple[int, int] | None) -> tuple[dict[str, np.ndarray], str]:
    rows, columns = next(iter(pictures.values())).shape
    if tile is not None:
        count = min(TILES, int(np.sqrt(rows)))
        tiled = {
            name: np.block([[_tile(values, i * count + j, tile) for j in range(count)] for i in range(count)])
            for name, values in pictures.items()
        }
        return tiled, f"The first {count * count} of {rows:,} rows are shown, each as the picture that it holds. "
    most_rows = min(MOST_ROWS, max(64, columns))
    most_columns = min(MOST_COLUMNS, max(96, 2 * rows))
    if rows <= most_rows and columns <= most_columns:
        return pictures, ""
    cut = {name: values[:most_rows, :most_columns] for name, values in pictures.items()}
    return cut, f"The first {min(rows, most_rows)} rows and {min(columns, most_columns)} columns are shown. "


def _tile(matrix: np.ndarray, row: int, tile: tuple[int, int]) -> np.ndarray:
    return matrix[row].reshape(tile)


def _singular_values(prepared: Prepared, matrix: np.ndarray, rank_tolerance: float) -> Figure:
    series = [_spectrum("recovered", matrix, "points")]
    if prepared.data.truth is not None:
        series.insert(0, _spectrum("true", prepared.data.truth, "line"))
    lines = (ReferenceLine("rank tolerance", rank_tolerance),) if rank_tolerance > 0 else ()
    positive = any(np.any(np.asarray(s.y) > 0) for s in series)
    top = max(float(np.max(np.asarray(s.y))) for s in series)
    low = max(min(rank_tolerance, top) * 1e-2, top * TINY) if positive else 0.0
    size = Axis("singular value", log=positive, floor=low if positive else None)
    return Figure(
        key="singular-values",
        title="Singular values",
        caption="Singular values above the tolerance make the rank; those below are not known to differ from zero"
        + (" and are drawn at the lower edge where they are smaller still." if positive else "."),
        panels=(Panel("Singular values", Axis("index"), size, tuple(series), lines),),
    )


def _spectrum(label: str, matrix: np.ndarray, kind: str) -> Series:
    values = np.linalg.svd(matrix, compute_uv=False)
    role = "theory" if label == "true" else "data"
    return Series(label, np.arange(1, len(values) + 1), values, kind=kind, role=role)  # pyright: ignore[reportArgumentType]


def _scatter(prepared: Prepared, matrix: np.ndarray) -> Figure | None:
    truth = prepared.data.truth
    if prepared.held is not None and prepared.held_targets is not None:
        actual, predicted, what = prepared.held_targets, predict(prepared.held, matrix), "targets held back"
    elif truth is not None and prepared.data.is_completion and not prepared.seen.all():
        unseen = ~prepared.seen
        actual, predicted, what = truth[unseen], matrix[unseen], "entries not shown"
    else:
        return None
    total = len(actual)
    if total > MOST_POINTS:
        kept = np.random.default_rng(0).choice(total, MOST_POINTS, replace=False)
        actual, predicted = actual[kept], predicted[kept]
    ends = np.array([min(actual.min(), predicted.min()), max(actual.max(), predicted.max())])
    drawn = f"{len(actual):,} of them, drawn at random" if len(actual) < total else "all of them"
    return Figure(
        key="held-out",
        title="Predictions of what was not fitted",
        caption=f"{total:,} {what}, {drawn}; on the line the prediction is exact.",
        panels=(
            Panel(
                "Predicted against true",
                Axis("true value"),
                Axis("predicted value"),
                (
                    Series(what, actual, predicted, kind="points"),
                    Series("exact", ends, ends, role="theory"),
                ),
            ),
        ),
    )


def _training(trained: Trained) -> Figure:
    steps = trained.curves["step"]
    axes = {
        "loss": ("Training loss", Axis("loss / mean squared target", log=True)),
        "trace": ("Trace of the Hessian", Axis("tr H of the scaled problem", log=True)),
        "nuclear_norm": ("Nuclear norm", Axis("‖X‖∗ of the scaled problem", log=True)),
    }
    return Figure(
        key="training",
        title="Along label-noise SGD",
        caption="Measurements and targets are scaled: the mean squared target is 1. The step size is chosen anew "
        "at the start of each phase as a quarter of 2 / (S + tr H / B), S the sharpness; the last has no noise.",
        panels=tuple(
            Panel(title, Axis("SGD steps"), axis, (Series("label-noise SGD", steps, trained.curves[name]),))
            for name, (title, axis) in axes.items()
        ),
    )
