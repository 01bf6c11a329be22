"""Imported by whatever needs the packages of `flatmin[app]`: where one is missing, one sentence says how to get it."""

import importlib.util

PACKAGES = {
    **{name: name for name in ("h5netcdf", "matplotlib", "pandas", "plotly", "pyarrow", "pydantic", "rich", "typer")},
    "PIL": "pillow",
    "xarray": "xarray",
    "yaml": "pyyaml",
}
"""What is imported, and what is installed for it."""

if _missing := [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]:
    raise ImportError(
        "files, studies, experiments, reports and the command need packages beside the mathematics; not installed: "
        f"{', '.join(sorted(_missing))}; pip install 'flatmin[app]'"
    )
