"""Pictures, seen through a mask."""

import dataclasses
import pathlib
import warnings
from typing import TYPE_CHECKING

import numpy as np

from flatmin._core import UsageError, regular_file
from flatmin.datasets.limits import check_room
from flatmin.datasets.npy import read_array
from flatmin.datasets.recovery_data import RecoveryData, missing_at_random, observed

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 40_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
"""What a picture may hold, whatever its ending says: none of these formats runs a program."""

_LEVELS = {"1": 255, "L": 255, "I;16": 65_535}
"""Value of white by Pillow's mode; 32-bit pictures have no white and keep their own numbers."""

_ORIENTATION = 0x0112  # EXIF


@dataclasses.dataclass(frozen=True)
class Picture:
    """Grey values, and what was decided on the way to them.

    Attributes:
        pixels: shape (rows, columns); 0 to 1 where the file has a white, else the file's own numbers.
        known: False where the file itself shows nothing: transparent pixels, NaN and infinities.
        white: value of a white pixel, None where the numbers are the file's own.
        notes: in sentences.
    """

    pixels: np.ndarray
    known: np.ndarray
    white: float | None
    notes: tuple[str, ...]


def read_image(
    path: pathlib.Path, *, mask: pathlib.Path | None, missing: float | None, seed: int, whole: bool = False
) -> RecoveryData:
    """Read a picture as a matrix of grey values, of which some are hidden.

    Args:
        path: a `.png`, `.jpg` or `.tif` file; colours are reduced to their brightness.
        mask: a picture of the same size, light where a pixel is seen; or a `.npy` file of bools.
        missing: fraction of the pixels to hide at random; give this or a mask, or neither for a picture of which parts
            are transparent or NaN.
        seed: of the hidden pixels.
        whole: whether nothing need be hidden, since errors are looked for: then the picture is not the truth.

    Returns:
        The data; the whole picture is the truth where all of it is known.

    Raises:
        UsageError: for an unreadable file, a mask of another size, both or neither of mask and missing.
    """
    picture = grey(path)
    pixels, known = picture.pixels, picture.known
    if mask is not None and missing is not None:
        raise UsageError(f"mask, missing: got both for the image {path.name}, expected one; give --missing or --mask")
    if not known.any():
        raise UsageError(f"{path.name}: shows nothing, every pixel is transparent or NaN; name another picture")
    if mask is not None:
        seen = known & _mask(mask, pixels.shape)
        if not seen.any():
            raise UsageError(f"mask: {mask.name} hides every pixel that {path.name} shows; at least one must be seen")
    elif missing is not None:
        seen = known & missing_at_random(pixels.shape, missing, seed)
        if not seen.any():
            raise UsageError(f"missing: got {missing}, which hides every pixel that {path.name} shows; hide fewer")
    elif whole or not known.all():
        seen = known
    else:
        raise UsageError(
            f"mask, missing: got neither for the image {path.name}, expected one; give --missing or --mask"
        )
    data = observed(pixels, seen, path.stem, image=True)
    masked = mask is not None or missing is not None
    truth = data.truth if known.all() and (masked or not whole) else None
    return dataclasses.replace(data, truth=truth, notes=picture.notes)


def grey(path: pathlib.Path) -> Picture:
    """A picture as grey values.

    Args:
        path: the file.

    Returns:
        The values, with notes on what was turned, reduced, divided or left out.

    Raises:
        UsageError: if it is no picture that can be read, or too large; its size is looked at before it is unpacked.
    """
    from PIL import Image, UnidentifiedImageError

    regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as picture:
                _check_size(path.name, picture.width, picture.height)
                return _converted(path.name, picture)
    except UnidentifiedImageError as error:
        raise UsageError(f"{path.name}: is not an image that can be read; check the file and its ending") from error
    except Image.DecompressionBombError as error:
        raise UsageError(f"{path.name}: got more than {MOST_PIXELS:,} pixels; scale it down") from error
    except PermissionError:
        raise
    except UsageError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(
            f"{path.name}: cannot be read as an image ({reason}); it is damaged, write it again"
        ) from error


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UsageError(f"{name}: got {width} × {height} pixels, expected at most {MOST_PIXELS:,}; scale it down")
    check_room(name, 16 * width * height, "scale it down")


def _converted(name: str, picture: "Image.Image") -> Picture:
    from PIL import ImageOps

    notes = []
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        notes.append(f"{name} has {frames:,} pages, of which the first was read.")
    deep = "16" in str(getattr(picture, "tile", "")) and picture.mode in ("RGB", "RGBA")
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        notes.append("The picture was turned as its EXIF rotation says.")
    picture.load()
    turned = ImageOps.exif_transpose(picture)
    mode = "I;16" if turned.mode.startswith("I;16") else turned.mode
    opaque = np.ones((turned.height, turned.width), dtype=bool)
    if "A" in mode.upper().replace("LAB", "") or "transparency" in turned.info:
        alpha = np.asarray(turned.convert("RGBA").getchannel("A"))
        opaque = alpha > 127  # of soft edges what is more there than not
        if not opaque.all():
            notes.append(f"{int((~opaque).sum()):,} transparent pixels are not seen (those with alpha below one half).")
        turned = turned.convert("RGBA").convert("RGB") if mode in ("P", "PA", "RGBA") else turned.convert("L")
        mode = turned.mode
    if mode in ("I", "F", "I;16"):
        pixels = np.asarray(turned).astype(np.float64)
    else:
        if mode not in ("1", "L") and not _is_grey(turned):
            notes.append("Colours were reduced to their brightness, 0.299 red + 0.587 green + 0.114 blue.")
        if deep:
            notes.append("Colours of 16 bits were read with 8.")
        pixels, mode = np.asarray(turned.convert("L")).astype(np.float64), "L"
    finite = np.isfinite(pixels)
    if not finite.all():
        notes.append(f"{int((~finite).sum()):,} pixels that are NaN or infinite are not seen.")
    if mode in _LEVELS:
        pixels = pixels / _LEVELS[mode]
        notes.append(
            f"The scale of the matrix is from 0 (black) to 1 (white): pixels were divided by {_LEVELS[mode]:,}."
        )
    else:
        notes.append("The matrix is in the picture's own units.")
    return Picture(pixels, opaque & finite, 1.0 if mode in _LEVELS else None, tuple(notes))


def _is_grey(picture: "Image.Image") -> bool:
    colours = np.asarray(picture.convert("RGB"))
    return bool((colours == colours[:, :, :1]).all())


def _mask(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    regular_file(path, "mask")
    if path.suffix.lower() == ".npy":
        seen = read_array(path, "mask")
        if seen.dtype.kind not in "biu":
            raise UsageError(f"mask: got {seen.dtype} in {path.name}, expected bools, True where a pixel is seen")
        seen = seen != 0
    else:
        try:
            picture = grey(path)
        except UsageError as error:
            raise UsageError(f"mask: {error}") from error
        # pictures without a white: light is what is at least half as light as the lightest
        white = picture.white or float(np.max(picture.pixels, where=picture.known, initial=0.0))
        seen = picture.known & (picture.pixels >= white / 2) & (picture.pixels > 0)
    if seen.shape != shape:
        raise UsageError(f"mask: got shape {seen.shape} in {path.name}, expected {shape}, that of the image")
    if not seen.any():
        raise UsageError(f"mask: {path.name} hides every pixel (m = 0); at least one must be seen")
    if seen.all():
        raise UsageError(f"mask: {path.name} hides no pixel, there is nothing to recover; make the hidden ones black")
    return seen
