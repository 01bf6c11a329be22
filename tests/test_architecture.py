"""The house's rules that a machine can check: import directions, light imports, no global configuration."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "flatmin"

# each room with the rooms that it may import, directly
ALLOWED = {
    "_core": set(),
    "measurements": {"_core"},
    "parameterizations": {"_core"},
    "linalg": {"_core"},
    "problems": {"_core", "measurements", "parameterizations"},
    "flatness": {"_core", "measurements", "parameterizations", "problems", "linalg"},
    "solvers": {"_core", "measurements", "parameterizations"},
    "theory": {"_core", "measurements", "parameterizations"},
    # what a solution is, by the theorems, beside what the solver finds
    "diagnosis": {"_core", "measurements", "solvers", "theory"},
    # a flow that stops asks for the curvature where it did: saddle or minimum
    "dynamics": {"_core", "linalg"},
    # the flattest interpolator itself: theorems, solvers, flows and traces meet here
    "interpolators": {
        "_core",
        "measurements",
        "parameterizations",
        "problems",
        "flatness",
        "solvers",
        "dynamics",
        "theory",
    },
    # laws for users' own classes
    "testing": {"_core", "measurements", "parameterizations", "problems", "flatness", "dynamics"},
    "datasets": {"_core", "measurements"},
    "linear_networks": {"_core"},
    "storage": {"_core"},
    "studies": {
        "_core",
        "storage",
        "measurements",
        "parameterizations",
        "problems",
        "flatness",
        "solvers",
        "dynamics",
    },
    "experiments": {
        "_core",
        "measurements",
        "parameterizations",
        "linalg",
        "problems",
        "flatness",
        "solvers",
        "theory",
        "diagnosis",
        "dynamics",
        "interpolators",
        "datasets",
        "linear_networks",
        "storage",
        "studies",
    },
    "report": {"_core", "experiments"},
    "estimators": {"_core", "measurements", "solvers"},
    "cli": {"_core", "datasets", "experiments", "report", "storage", "studies"},
}


def imports_of(path: pathlib.Path) -> set[str]:
    """Rooms of flatmin that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "flatmin":
                names = [f"flatmin.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("flatmin.")}
    return found


def rooms() -> dict[str, list[pathlib.Path]]:
    return {
        folder.name: sorted(folder.rglob("*.py"))
        for folder in PACKAGE.iterdir()
        if folder.is_dir() and any(folder.rglob("*.py"))
    }


def test_every_room_is_listed():
    assert set(rooms()) == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_run_downward(room):
    for path in rooms()[room]:
        above = imports_of(path) - ALLOWED[room] - {room} - {"__version__"}
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}, which {room} may not"


def test_the_check_sees_imports():
    assert imports_of(PACKAGE / "flatness" / "target.py") >= {"_core", "linalg", "problems"}


def test_the_library_sets_no_global_configuration():
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "update":
                owner = ast.unparse(node.value)
                assert not owner.endswith("jax.config"), f"{path}: sets jax.config"


def test_import_is_light():
    """`import flatmin` pulls neither plotting nor file formats nor the command line."""
    code = (
        "import sys, flatmin; heavy = {'matplotlib', 'plotly', 'pandas', 'xarray', 'typer', 'rich', 'pyarrow', 'PIL'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert out.stdout.strip() == "[]"


def test_files_stay_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, f"{path}: is it still one room?"
