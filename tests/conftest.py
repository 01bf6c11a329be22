"""Tests run in float64, with strict promotion of ranks and checked shapes."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jaxtyping
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
# one folder of compiled programs for all test processes: most of the suite's time is compilation
jax.config.update("jax_compilation_cache_dir", os.environ.get("FLATMIN_TEST_CACHE", ""))

# it stays: names of the package and rooms that no name leads to are imported, and then checked, when first used
_hook = install_import_hook("flatmin", "typecheck.checked")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def unchecked():
    """No shape and type checker: what a user's mistake meets is the library's own sentence."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
