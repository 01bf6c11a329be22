"""Pictures, seen through a mask."""

import pathlib

import numpy as np

from flatmin._core import UsageError
from flatmin.datasets.recovery_data import RecoveryData, missing_at_random, observed

MOST_PIXELS = 40_000_000


def read_image(path: pathlib.Path, *, mask: pathlib.Path | None, missing: float | None, seed: int) -> RecoveryData:
    """Read a picture as a matrix of grey values from 0 to 1, of which some are hidden.

    Args:
        path: a `.png`, `.jpg` or `.tif` file; colours are reduced to their brightness.
        mask: a picture of the same size, light where a pixel is seen; or a `.npy` file of bools.
        missing: fraction of the pixels to hide at random; give this or a mask.
        seed: of the hidden pixels.

    Returns:
        The data; the whole picture is the truth.

    Raises:
        UsageError: for an unreadable file, a mask of another size, both or neither of mask and missing.
    """
    pixels = grey(path)
    if (mask is None) == (missing is None):
        got = "neither" if mask is None else "both"
        raise UsageError(f"mask, missing: got {got} for the image {path.name}, expected one; give --missing or --mask")
    if mask is not None:
        seen = _mask(mask, pixels.shape)
        data = observed(pixels, seen, path.stem, image=True)
    else:
        data = observed(pixels, missing_at_random(pixels.shape, missing or 0.0, seed), path.stem, image=True)
    return data


def grey(path: pathlib.Path) -> np.ndarray:
    """A picture as grey values.

    Args:
        path: the file.

    Returns:
        Shape (rows, columns), from 0 (black) to 1 (white).

    Raises:
        UsageError: if it is no picture that can be read.
    """
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise UsageError(
                        f"{path.name}: got {picture.width} × {picture.height} pixels, expected at most {MOST_PIXELS:,}"
                        "; scale it down"
                    )
                mode = picture.mode
                picture.load()
                plain = np.asarray(picture if mode[0] in "IF" else picture.convert("L"), dtype=np.float64)
    except UnidentifiedImageError as error:
        raise UsageError(f"{path.name}: is not an image that can be read; check the file and its ending") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, UsageError | PermissionError):
            raise
        raise UsageError(f"{path.name}: cannot be read as an image ({error}); it is damaged, write it again") from error
    if not np.isfinite(plain).all():
        raise UsageError(f"{path.name}: holds pixels that are NaN or infinite; replace them, or hide them with --mask")
    if mode[0] == "I":
        return plain / 65535.0
    if mode[0] == "F":
        spread = plain.max() - plain.min()
        return (plain - plain.min()) / (spread if spread > 0 else 1.0)
    return plain / 255.0


def _mask(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        try:
            seen = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UsageError(f"mask: {path.name} cannot be read as an array ({error}); write it again") from error
        if seen.dtype.kind not in "biu":
            raise UsageError(f"mask: got {seen.dtype} in {path.name}, expected bools, True where a pixel is seen")
        seen = seen != 0
    else:
        seen = grey(path) >= 0.5
    if seen.shape != shape:
        raise UsageError(f"mask: got shape {seen.shape} in {path.name}, expected {shape}, that of the image")
    if not seen.any():
        raise UsageError(f"mask: {path.name} hides every pixel (m = 0); at least one must be seen")
    if seen.all():
        raise UsageError(f"mask: {path.name} hides no pixel, there is nothing to recover; make the hidden ones black")
    return seen
