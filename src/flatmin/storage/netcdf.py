"""Labelled arrays as NetCDF-4 files, through h5netcdf."""

import io
import pathlib
import tempfile
from typing import TYPE_CHECKING

from flatmin._core import JobError, UsageError

if TYPE_CHECKING:
    import xarray as xr


def write_netcdf(dataset: "xr.Dataset", path: pathlib.Path) -> None:
    """Write a dataset; large arrays are compressed.

    Args:
        dataset: the dataset.
        path: the file.

    Raises:
        UsageError: if the dataset holds values that the format cannot.
    """
    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name, array in dataset.variables.items()
        if array.size > 1000 and array.dtype.kind in "fiu"
    }
    try:
        dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"datasets: {path.name} cannot be written as NetCDF ({error}); store real numbers and texts"
        ) from error


def read_netcdf(path: pathlib.Path) -> "xr.Dataset":
    """Read a dataset into memory, numbers as they are (no guessing of dates from units).

    Args:
        path: the file.

    Returns:
        The dataset.

    Raises:
        JobError: if the file is damaged.
    """
    import xarray as xr

    try:
        return xr.load_dataset(path, engine="h5netcdf", decode_times=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"run: {path} cannot be read as NetCDF ({error}); delete the run's folder and run it again"
        ) from error


def to_netcdf(dataset: "xr.Dataset") -> bytes:
    """A dataset as the bytes of a file.

    Args:
        dataset: the dataset.

    Returns:
        The bytes.

    Raises:
        UsageError: if the dataset holds values that the format cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "cell.nc"
        write_netcdf(dataset, path)
        return path.read_bytes()


def from_netcdf(data: bytes | memoryview) -> "xr.Dataset":
    """The dataset behind the bytes of a file.

    Args:
        data: what `to_netcdf` returned.

    Returns:
        The dataset, in memory.
    """
    import xarray as xr

    return xr.load_dataset(io.BytesIO(data), engine="h5netcdf", decode_times=False)
