"""Frames of a packaged clip, decoded by ffmpeg."""

import pathlib
import tempfile

import numpy as np

from flatmin._core import JobError, UsageError

FIRST, NUMBER = 192, 50
SIZE, BINNED = (272, 640), 4


def grey_frames(content: bytes, name: str) -> np.ndarray:
    """Brightness of the frames that a fixed camera took.

    Args:
        content: the file.
        name: how to call it in a sentence.

    Returns:
        Shape (50, 68, 160), values from 0 to 1; each is the mean over 4 x 4 pixels.

    Raises:
        UsageError: if imageio-ffmpeg is not installed.
        JobError: if the file cannot be decoded.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UsageError(
            f"{name}: decoding it needs imageio-ffmpeg (flatmin[data]), which is not installed; install it"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "clip.mp4"
        path.write_bytes(content)
        frames = imageio_ffmpeg.read_frames(str(path), pix_fmt="gray", bits_per_pixel=8)
        try:
            width, height = next(frames)["size"]
            kept = [
                np.frombuffer(frame, dtype=np.uint8).reshape(height, width)
                for number, frame in enumerate(frames)
                if FIRST <= number < FIRST + NUMBER
            ]
        except (OSError, RuntimeError, StopIteration) as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            raise JobError(f"{name}: ffmpeg cannot decode it ({reason}); install another imageio-ffmpeg") from error
        finally:
            frames.close()
    if (height, width) != SIZE or len(kept) != NUMBER:
        raise JobError(f"{name}: got {len(kept)} frames of {height} x {width}, expected {NUMBER} of {SIZE}")
    whole = np.stack(kept) / 255.0
    rows, columns = SIZE[0] // BINNED, SIZE[1] // BINNED
    return whole.reshape(NUMBER, rows, BINNED, columns, BINNED).mean(axis=(2, 4))
