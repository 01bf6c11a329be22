"""Large images as PNG pixels: a page that carries each grey value as a number would take tens of megabytes."""

import io

import numpy as np

from flatmin.experiments.figures import ImagePanel, grid_of
from flatmin.report import style

INTERACTIVE_CELLS = 20_000
"""Up to so many cells an image is drawn interactively, with the value under the pointer."""


def is_large(panel: object) -> bool:
    """Whether a panel is an image that is better shown as pixels.

    Args:
        panel: any panel.

    Returns:
        True for images of more than `INTERACTIVE_CELLS` cells.
    """
    return isinstance(panel, ImagePanel) and grid_of(panel).size > INTERACTIVE_CELLS


def pixel_png(panel: ImagePanel) -> bytes:
    """The image, one pixel a cell, grey from black to white over its range; missing cells in their own colour.

    Args:
        panel: the image.

    Returns:
        A PNG file.
    """
    from PIL import Image, ImageColor

    values = grid_of(panel)
    low, high = style.color_range(panel)
    grey = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    pixels = np.repeat(np.rint(255 * grey).astype(np.uint8)[:, :, None], 3, axis=2)
    pixels[np.isnan(values)] = ImageColor.getrgb(style.MISSING)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()
