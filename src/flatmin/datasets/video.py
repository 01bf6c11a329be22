"""Frames of a packaged clip, decoded by ffmpeg."""

import pathlib
import subprocess
import tempfile

import numpy as np

from flatmin._core import JobError, UsageError

NUMBER, SIZE, BINNED = 50, (144, 176), 2


def grey_frames(content: bytes, name: str) -> np.ndarray:
    """Brightness of the first frames of a clip.

    Args:
        content: the file.
        name: how to call it in a sentence.

    Returns:
        Shape (50, 72, 88), values from 0 to 1; each is the mean over 2 x 2 pixels.

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
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", str(NUMBER)]
        # not imageio_ffmpeg's own reader: it forks, which is not safe beside JAX's threads
        done = subprocess.run(  # noqa: S603
            [*command, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True, check=False
        )
    if done.returncode != 0 or len(done.stdout) != NUMBER * SIZE[0] * SIZE[1]:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["another size or too few frames"]
        raise JobError(f"{name}: ffmpeg cannot decode it ({lines[-1][:200]}); install another imageio-ffmpeg")
    whole = np.frombuffer(done.stdout, dtype=np.uint8).reshape(NUMBER, *SIZE) / 255.0
    rows, columns = SIZE[0] // BINNED, SIZE[1] // BINNED
    return whole.reshape(NUMBER, rows, BINNED, columns, BINNED).mean(axis=(2, 4))
