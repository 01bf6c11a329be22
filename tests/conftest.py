"""Tests run in float64, with strict promotion of ranks and checked shapes."""

import os
import pathlib
import signal
import subprocess
import sys

# where SIGINT is ignored (nohup, a shell's background job), child processes inherit that, and those that a test
# interrupts would never end
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _knows(flag: str) -> bool:
    """Whether this XLA knows the flag: it ends the process where not, so another one is asked."""
    ask = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(ask, env=environment, capture_output=True, check=False, timeout=120).returncode == 0


# most of the suite's time is compilation, and XLA's older emitters, where there still are any, compile twice as fast;
# the oldest dependencies are tested with the default ones (`make test-lowest` sets FLATMIN_TEST_XLA=default). The
# variable is set for the processes that pytest-xdist starts, which need not ask again.
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
if "FLATMIN_TEST_XLA" not in os.environ:
    os.environ["FLATMIN_TEST_XLA"] = "older" if _knows(OLDER_EMITTERS) else "default"
    if os.environ["FLATMIN_TEST_XLA"] == "older":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLDER_EMITTERS}"
        # most of the suite's time is compilation: half of it is saved by compiling as for debugging
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# these rooms are imported, and then checked, when a test first needs them
_hook = install_import_hook(
    ["flatmin.storage", "flatmin.studies", "flatmin.experiments.study_report"], "typecheck.checked"
)
with install_import_hook("flatmin", "typecheck.checked"):
    import flatmin

    # names of the package are looked up when first used: have every room checked, but those that few tests need
    for _name in sorted({*dir(flatmin)} - {"estimators", "experiments", "linear_networks", "report", "studies"}):
        getattr(flatmin, _name)


PROGRAMS = pathlib.Path("/proc/self/maps")
"""Where Linux lists what is mapped: about six lines a compiled program, and a process may have 65,530."""


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Compiled programs are let go once there are many: a process of the suite would abort at about ten thousand."""
    yield
    if PROGRAMS.exists() and PROGRAMS.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked():
    """No shape and type checker: what a user's mistake meets is the library's own sentence."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
