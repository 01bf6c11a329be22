"""The house's rules that a machine can check: import directions, light imports, no global configuration."""

import ast
import importlib
import pathlib
import subprocess
import sys
import types

import pytest

import flatmin

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


def privates_of(path: pathlib.Path, room: str) -> set[str]:
    """What a file imports of the privates of rooms other than its own (`_core` is everybody's)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flatmin."):
            _, home, *inside = node.module.split(".")
            names = [*inside, *(alias.name for alias in node.names)]
            if home not in {"_core", room} and any(name.startswith("_") for name in names):
                found.add(node.module)
    return found


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_privates_stay_in_their_room(room):
    for path in rooms()[room]:
        assert not privates_of(path, room), f"{path.relative_to(ROOT)} imports {privates_of(path, room)}"


def test_the_check_sees_privates():
    assert privates_of(PACKAGE / "solvers" / "pursuit.py", "theory") >= {"flatmin.solvers._base"}


PUBLIC = sorted(set(ALLOWED) - {"_core", "cli", "storage"})


@pytest.mark.parametrize("room", PUBLIC)
def test_rooms_show_their_names_and_no_modules(room):
    module = getattr(flatmin, room)
    assert dir(module) == module.__all__ == sorted(set(module.__all__))
    shown = {name: getattr(module, name) for name in module.__all__}
    modules = {name for name, value in shown.items() if isinstance(value, types.ModuleType)}
    papers = {path.stem for path in (PACKAGE / "theory").glob("[a-z]*.py")}
    assert modules == (papers if room == "theory" else set())


def test_the_package_shows_each_name_once():
    names = dir(flatmin)
    assert len(names) == len(set(names))
    assert set(PUBLIC) <= set(names)
    assert all(hasattr(flatmin, name) for name in names)
    code = "import flatmin; " + "; ".join(f"flatmin.{room}" for room in PUBLIC)
    subprocess.run([sys.executable, "-c", code], check=True)
    for room in PUBLIC:
        assert getattr(flatmin, room) is importlib.import_module(f"flatmin.{room}")


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
