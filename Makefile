# Two commands: `make demo` reproduces the first paper, `make test` runs the tests. Both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# what the oldest dependencies must pass: every room once, without the oracles that only the full suite installs
LOWEST := tests/test_theory.py tests/test_problems.py tests/test_metamorphic.py tests/test_checkpoint.py \
	tests/test_runs.py tests/test_gatmiry2023.py

# what a new Python or a new JAX breaks first: the engines, options of XLA, the estimators' peers, processes and files
NEWEST := $(LOWEST) tests/test_architecture.py tests/test_linear_networks.py tests/test_flatness.py tests/test_estimators.py \
	tests/test_flow.py tests/test_solvers.py tests/test_study_command.py tests/test_readme.py

.PHONY: demo full test test-long test-lowest test-newest test-doors mutants lint format types check lines release bench clean help

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.stamp-base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("flatmin needs Python 3.11 or later, got " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[app]'
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
	$(BIN)/python -m pytest -n 2 --dist loadfile -m '' -o faulthandler_timeout=7200

.venv-lowest/.stamp: pyproject.toml scripts/lowest.py
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) scripts/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/lowest.txt -e '.[app]' pytest beartype
	touch $@

test-lowest: .venv-lowest/.stamp  ## the core tests with the oldest supported dependencies
	FLATMIN_TEST_XLA=default .venv-lowest/bin/python -m pytest -q -p no:cacheprovider $(LOWEST)

.venv-newest/.stamp: pyproject.toml scripts/newest_python.py
	newest="$$($(PYTHON) scripts/newest_python.py)"; \
	if [ -n "$$newest" ]; then \
	  test -x .venv-newest/bin/python || "$$newest" -m venv .venv-newest; \
	  .venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e '.[test]' && touch $@; \
	fi

test-newest: .venv-newest/.stamp  ## the core tests with the newest Python here and the newest dependencies
	@if [ -e .venv-newest/.stamp ]; then .venv-newest/bin/python -m pytest -q -n 2 -p no:cacheprovider $(NEWEST); \
	else echo "test-newest: no declared Python newer than $$($(PYTHON) -V) is installed here; nothing tested"; fi

test-doors: $(VENV)/.stamp-dev  ## every public callable x every wrong value, and a valid call of each (half an hour)
	$(BIN)/python -m pytest -n 2 -m '' tests/test_doors.py

mutants: $(VENV)/.stamp-dev  ## change one thing in the code at a time; do the tests notice? (hours; goes on where it was)
	$(BIN)/python scripts/mutants

lint: $(VENV)/.stamp-dev   ## style and formatting, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.stamp-dev ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.stamp-dev  ## types of the package, checked by pyright (mode standard)
	$(BIN)/pyright

check: lint types test     ## everything that a commit must pass

lines:                     ## lines of code by room
	$(PYTHON) scripts/code_lines.py

release: $(VENV)/.stamp-dev ## build wheel and sdist, install the wheel alone in a fresh environment, and use it
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist .
	rm -rf dist/check && $(PYTHON) -m venv dist/check
	dist/check/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd dist && check/bin/python -c "import flatmin as fm; print(fm.__version__, len(dir(fm)), 'names')"
	cd dist && ! check/bin/flatmin --version 2> message && grep -q "flatmin\[app\]" message
	wheel="$$(ls dist/*.whl)" && dist/check/bin/python -m pip install --quiet --disable-pip-version-check "$$wheel[app]"
	cd dist && check/bin/flatmin --version && printf 'row,column,value\na,x,1\na,y,2\nb,x,2\nb,y,4\nc,x,3\n' > data.csv \
	  && check/bin/flatmin recover data.csv --out runs
	rm -rf dist/check dist/runs dist/data.csv dist/message

bench:                     ## speed and memory against the peers, side by side (installs PyTorch)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks

clean:                     ## remove environments and caches
	rm -rf .venv .venv-lowest .venv-newest .pytest_cache .ruff_cache
