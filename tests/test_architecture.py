"""The house's rules that a machine can check: import directions, light imports, no global configuration."""

import ast
import importlib
import pathlib
import subprocess
import sys
import tomllib
import types

import pytest

import flatmin
from flatmin._core.app import PACKAGES

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


CORE_ONLY = """
import importlib.util, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {names} else find_spec(name, *rest)
sys.meta_path.insert(0, Missing())
"""


def without_app(code: str) -> subprocess.CompletedProcess:
    """Run code where `pip install flatmin` brought the core only."""
    names = {*PACKAGES, "sklearn", "distributed", "dask"}
    command = [sys.executable, "-c", CORE_ONLY.replace("{names}", repr(names)) + code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_core_install_is_what_the_mathematics_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 12
    assert len(project["optional-dependencies"]["app"]) >= len(PACKAGES)
    rooms = sorted(set(PUBLIC) - {"estimators", "experiments", "report", "studies"})
    done = without_app(
        "import jax, jax.numpy as jnp, flatmin as fm\n"
        f"for room in {rooms}: getattr(fm, room)\n"
        "instance = fm.problems.matrix_sensing(jax.random.key(0), (3, 3), rank=1, num_measurements=6, depth=2)\n"
        "problem = instance.problem\n"
        "params = problem.parameterization.init_params(jax.random.key(1), fm.parameterizations.Gaussian(0.5))\n"
        "print(float(fm.hessian_trace(problem, params)) > 0)"
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("room", ["estimators", "experiments", "report", "studies"])
def test_a_room_says_what_is_not_installed(room):
    done = without_app(f"import flatmin\ntry: flatmin.{room}\nexcept ImportError as error: print(error)")
    assert "pip install" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_files_and_the_command_say_what_is_not_installed():
    done = without_app(
        "import flatmin\ntry: flatmin.datasets.read_data('camera')\nexcept ImportError as error: print(error)"
    )
    assert "pip install 'flatmin[app]'" in done.stdout, done.stderr
    done = without_app("from flatmin.cli import main\nsys.exit(main(['recover', 'camera']))")
    assert done.returncode == 1
    assert "pip install 'flatmin[app]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_files_stay_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, f"{path}: is it still one room?"
