"""Labelled arrays as NetCDF files.

NetCDF-4 through h5netcdf, which needs h5py. Where h5py is missing the file is NetCDF-3 through scipy: the same
labels and values, but uncompressed and without 64-bit integers (figures restore their types, see
`report.datasets`). Which of the two was written is recorded with the run, and either is read back.
"""

import importlib.util
import pathlib
from typing import TYPE_CHECKING, Literal

from flatmin._core import JobError, UsageError

if TYPE_CHECKING:
    import xarray as xr

Engine = Literal["h5netcdf", "scipy"]


def netcdf_engine() -> Engine:
    """The engine that new files are written with.

    Returns:
        `h5netcdf` if h5py is installed, else `scipy`.
    """
    return "h5netcdf" if importlib.util.find_spec("h5py") else "scipy"


def write_netcdf(dataset: "xr.Dataset", path: pathlib.Path) -> None:
    """Write a dataset; large arrays are compressed where the format can.

    Args:
        dataset: the dataset.
        path: the file.

    Raises:
        UsageError: if the dataset holds values that the format cannot.
    """
    engine = netcdf_engine()
    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name, array in dataset.variables.items()
        if engine == "h5netcdf" and array.size > 1000 and array.dtype.kind in "fiu"
    }
    try:
        dataset.to_netcdf(path, engine=engine, encoding=encoding)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"datasets: {path.name} cannot be written as NetCDF by {engine} ({error}); store real numbers and texts"
        ) from error


def read_netcdf(path: pathlib.Path) -> "xr.Dataset":
    """Read a dataset into memory, numbers as they are (no guessing of dates from units).

    Args:
        path: the file.

    Returns:
        The dataset.

    Raises:
        JobError: if the file is damaged, or is NetCDF-4 and h5py is missing.
    """
    import xarray as xr

    with path.open("rb") as stream:
        engine: Engine = "scipy" if stream.read(3) == b"CDF" else "h5netcdf"
    if engine == "h5netcdf" and netcdf_engine() != engine:
        raise JobError(f"run: {path} is NetCDF-4, which needs h5py; install it with: pip install h5py")
    try:
        return xr.load_dataset(path, engine=engine, decode_times=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"run: {path} cannot be read as NetCDF ({error}); delete the run's folder and run it again"
        ) from error
