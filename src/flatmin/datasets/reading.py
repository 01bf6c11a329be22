"""One entrance for every kind of source."""

import dataclasses
import difflib
import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np

from flatmin._core import (
    AnyOf,
    Choice,
    Optional,
    Path,
    Real,
    Text,
    UsageError,
    checked,
    checked_anywhere,
    nearest,
    regular_file,
)
from flatmin.datasets.arrays import check_npz, read_npz
from flatmin.datasets.images import read_image
from flatmin.datasets.known_entries import DUPLICATES
from flatmin.datasets.matrices import read_matrix, read_npz_matrix
from flatmin.datasets.packaged import PACKAGED, load_packaged
from flatmin.datasets.ratings import load_ratings
from flatmin.datasets.recovery_data import RecoveryData, missing_at_random, observed
from flatmin.datasets.tables import read_table
from flatmin.measurements import entries

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TEXTS = (".csv", ".tsv", ".txt")
TABLES = (*TEXTS, *(f"{ending}.gz" for ending in TEXTS), ".parquet")
MATRICES = (".npy", ".mtx", ".mtx.gz")
ENDINGS = (".npz", *TABLES, *MATRICES, *IMAGES)
_ADVICE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV"),
    **dict.fromkeys((".dat", ".data"), "a table of text is read under the name .csv or .txt"),
    **dict.fromkeys((".mat", ".h5", ".hdf5", ".rds"), "write the matrix as .npy, with NaN where it is unknown"),
    **dict.fromkeys((".pkl", ".pickle"), "pickled objects could run code and are never loaded; write it as .npy"),
    ".json": "write it as a table, .csv or .parquet",
}
SOURCE = AnyOf(Text(1), Path())


@checked_anywhere(duplicates=Choice(*DUPLICATES), missing=Optional(Real(0, 1, above=True, below=True)))
@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How to read a source; each option belongs to some kinds of source only.

    Attributes:
        row: tables: name of the column with the row's label.
        column: tables: name of the column with the column's label.
        value: tables: name of the column with the value.
        duplicates: tables and lists of entries: `error`, `mean` or `last`.
        shape: tables: (d1, d2), if labels are indices from 0.
        mask: images: file that tells which pixels are seen.
        missing: images, matrices and packaged data: fraction to hide.
        seed: seed of what is hidden.
        whole: images and packaged data: whether nothing need be hidden, since all entries are to be used.
        wide: tables: whether each line is a row of the matrix.
        header: tables: whether the first line names the columns.
    """

    row: str | None = None
    column: str | None = None
    value: str | None = None
    duplicates: str = "error"
    shape: tuple[int, int] | None = None
    mask: pathlib.Path | None = None
    missing: float | None = None
    seed: int = 0
    whole: bool = False
    wide: bool = False
    header: bool = True


_OPTIONS = {
    "table": ("row", "column", "value", "duplicates", "shape", "wide", "header"),
    "matrix": ("missing", "duplicates"),
    "image": ("mask", "missing"),
    "packaged data": ("missing",),
    "npz archive": (),
}


@checked(source=SOURCE)
def read_data(source: str | pathlib.Path, options: ReadOptions | None = None) -> RecoveryData:
    """Read a file, or a data set inside an installed package.

    Args:
        source: a path that ends in one of `ENDINGS`, or a key of `PACKAGED`.
        options: how to read it.

    Returns:
        The data.

    Raises:
        UsageError: with one sentence on what is wrong with the source or an option.
    """
    import flatmin._core.app  # noqa: F401  # says what is missing

    source, options = str(source), options or ReadOptions()
    kind = kind_of(source)
    _refuse_unused(kind, options)
    if kind == "packaged data":
        return _packaged(source, options)
    path = existing(source)
    if kind == "npz archive":
        form = check_npz(path)
        return read_npz_matrix(path, form[0]) if form[0] in ("sparse", "matrix") else read_npz(path)
    if kind == "matrix":
        hide = {"missing": options.missing, "seed": options.seed, "whole": options.whole}
        return read_matrix(path, duplicates=options.duplicates, **hide)
    if kind == "image":
        return read_image(path, mask=options.mask, missing=options.missing, seed=options.seed, whole=options.whole)
    return read_table(path, **{name: getattr(options, name) for name in _OPTIONS["table"]})


def check_source(source: str, mask: pathlib.Path | None = None) -> None:
    """Refuse what cannot be read by its name, its kind and its headers; nothing else is read.

    Args:
        source: a path or the name of a packaged data set.
        mask: a mask's file.

    Raises:
        UsageError: for an unknown ending or name, no regular file, and archives whose arrays do not fit.
    """
    kind = kind_of(source)
    if kind != "packaged data":
        path = existing(source)
        if kind == "npz archive":
            check_npz(path)
    if mask is not None:
        existing(mask, "mask")


def kind_of(source: str) -> str:
    """What a source is, by its name alone.

    Args:
        source: a path or the name of a packaged data set.

    Returns:
        `table`, `matrix`, `image`, `npz archive` or `packaged data`.

    Raises:
        UsageError: for an unknown ending or name.
    """
    if source in PACKAGED:
        return "packaged data"
    name = pathlib.Path(source).name.lower()
    kinds = {"npz archive": (".npz",), "table": TABLES, "matrix": MATRICES, "image": IMAGES}
    for kind, endings in kinds.items():
        if name.endswith(endings):
            return kind
    ending = pathlib.Path(source).suffix.lower()
    if ending:
        close = difflib.get_close_matches(ending, ENDINGS, n=1, cutoff=0.75)
        advice = f"did you mean {close[0]!r}?" if close else "write it as one of these"
        advice = _ADVICE.get(ending, advice)
        raise UsageError(
            f"file: got the ending {ending!r} of {source!r}, expected a table ({', '.join(TABLES)}), a matrix "
            f"({', '.join(MATRICES)}, .npz) or a picture ({', '.join(IMAGES)}); {advice}"
        )
    raise UsageError(
        f"file: got {source!r}, expected a file ending in {', '.join(ENDINGS)}, or a known data set; "
        f"{nearest(source, PACKAGED)}"
    )


@checked_anywhere(source=SOURCE)
def fingerprint(source: str | pathlib.Path, argument: str = "file") -> str:
    """SHA-256 of what a source holds, wherever it lies.

    Args:
        source: a path, or the name of a packaged data set.
        argument: its name, for the sentence.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: if there is no such file.
    """
    if str(source) in PACKAGED:
        return PACKAGED[str(source)].sha256
    with existing(source, argument).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def existing(source: str | pathlib.Path, argument: str = "file") -> pathlib.Path:
    """The path, if there is such a file.

    Args:
        source: a path.
        argument: its name, for the sentence.

    Returns:
        The path.

    Raises:
        UsageError: if there is none, or no regular one; the nearest name beside it is suggested.
    """
    return regular_file(source, argument, endings=ENDINGS)


def _packaged(name: str, options: ReadOptions) -> RecoveryData:
    about = (f"The data are {PACKAGED[name].about}.",)
    if PACKAGED[name].partly:
        return dataclasses.replace(_ratings(name, options), notes=about)
    if options.missing is None and options.whole:
        picture, tile = PACKAGED[name].is_image, PACKAGED[name].tile
        return dataclasses.replace(_everything(load_packaged(name), name, image=picture, tile=tile), notes=about)
    if options.missing is None:
        raise UsageError(f"missing: {name} is completely known; hide a fraction of it, such as --missing 0.6")
    matrix = load_packaged(name)
    seen = missing_at_random(matrix.shape, options.missing, options.seed)
    data = observed(matrix, seen, name, image=PACKAGED[name].is_image, tile=PACKAGED[name].tile)
    return dataclasses.replace(data, notes=about)


def _everything(matrix: np.ndarray, name: str, *, image: bool, tile: tuple[int, int] | None = None) -> RecoveryData:
    """All entries, with errors among them: what is seen is not the truth."""
    data = observed(matrix, np.ones(matrix.shape, dtype=bool), name, image=image, tile=tile)
    return dataclasses.replace(data, truth=None)


def _ratings(name: str, options: ReadOptions) -> RecoveryData:
    if options.missing is not None:
        raise UsageError(f"missing: {name} is known only in part; hold back part of the targets with --holdout")
    ratings = load_ratings()
    order = np.lexsort((ratings.cols, ratings.rows))
    return RecoveryData(
        name=name,
        measurements=entries(jnp.asarray(ratings.rows[order]), jnp.asarray(ratings.cols[order]), ratings.shape),
        targets=ratings.values[order],
        row_labels=ratings.users,
        column_labels=ratings.films,
    )


def _refuse_unused(kind: str, options: ReadOptions) -> None:
    for field in dataclasses.fields(options):
        if field.name in ("seed", "whole", *_OPTIONS[kind]) or getattr(options, field.name) == field.default:
            continue
        homes = [k for k, names in _OPTIONS.items() if field.name in names]
        hint = "hold back part of the targets with --holdout" if field.name == "missing" else "leave it out"
        raise UsageError(f"{field.name}: applies to {' and '.join(homes)} sources, got a {kind}; {hint}")


__all__ = ["DUPLICATES", "ENDINGS", "ReadOptions", "check_source", "existing", "fingerprint", "kind_of", "read_data"]
