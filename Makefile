# Two commands: `make demo` reproduces the first paper, `make test` runs the tests. Both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# what the oldest dependencies must pass: every room once, without the oracles that only the full suite installs
LOWEST := tests/test_theory.py tests/test_problems.py tests/test_metamorphic.py tests/test_checkpoint.py \
	tests/test_runs.py tests/test_gatmiry2023.py

.PHONY: demo full test test-long test-lowest lint format types check bench docs clean help

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.stamp-base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("flatmin needs Python 3.11 or later, got " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.stamp-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(VENV)/.stamp-base $@

demo: $(VENV)/.stamp-base  ## reproduce Gatmiry et al. 2023 at the paper's size (minutes)
	$(BIN)/flatmin reproduce gatmiry2023 --out runs

full: $(VENV)/.stamp-base  ## the same for depths 2, 3, 5 and three seeds (under 20 minutes)
	$(BIN)/flatmin reproduce gatmiry2023 --full --out runs

test: $(VENV)/.stamp-dev   ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: $(VENV)/.stamp-dev  ## the long tests too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

.venv-lowest/.stamp: pyproject.toml scripts/lowest.py
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) scripts/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/lowest.txt -e . pytest beartype
	touch $@

test-lowest: .venv-lowest/.stamp  ## the core tests with the oldest supported dependencies
	FLATMIN_TEST_XLA=default .venv-lowest/bin/python -m pytest -q -p no:cacheprovider $(LOWEST)

lint: $(VENV)/.stamp-dev   ## style and formatting, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.stamp-dev ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.stamp-dev  ## strict types of the public API
	$(BIN)/pyright

check: lint types test     ## everything that a commit must pass

bench:                     ## speed and memory against the peers, side by side (installs PyTorch)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks

clean:                     ## remove environments and caches
	rm -rf .venv .venv-lowest .pytest_cache .ruff_cache
