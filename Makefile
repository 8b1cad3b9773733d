# `make demo` and `make test` need only Python 3.11+ (with venv) and make; the rest is installed into .venv.
# Options: PYTHON=python3.12 (interpreter), TORCH="torch==2.14.1" (which torch), JOBS=2 (tests at a time); see scripts/setup-venv.

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
READY := $(VENV)/.ready
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS)

export PYTHON TORCH VENV

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-newest lint unit slow format docs lock clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' Makefile | expand -t 14

$(READY): pyproject.toml constraints.txt scripts/setup-venv
	@scripts/setup-venv

setup:  ## make .venv with everything below in it, or bring it up to date
	@scripts/setup-venv

demo: $(READY)  ## compress the small built-in teacher, offline, in minutes
	$(BIN)/sottovoce demo

test: $(READY)  ## every check that a change must pass; says at the end what it ran on
	@$(MAKE) --no-print-directory lint docs unit; status=$$?; $(PY) scripts/ran-on; exit $$status

test-newest:  ## the same in .venv-newest, with the newest release of every package; before each release
	@VENV=.venv-newest NEWEST=1 scripts/setup-venv
	@$(MAKE) --no-print-directory VENV=.venv-newest test

lint: $(READY)  ## style, types, and the direction of imports
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(BIN)/lint-imports

unit: $(READY)  ## the tests, without the slow ones
	$(PYTEST)

slow: $(READY)  ## the slow tests
	$(PYTEST) -m slow --timeout 1800

format: $(READY)  ## mend style in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(READY)  ## build the site into site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict -q

lock: $(READY)  ## write constraints.txt anew after a change of dependencies; UPGRADE=-U takes the newest of all
	$(PY) -m pip install -q uv
	$(PY) -m uv pip compile -q --universal --python-version 3.11 --fork-strategy fewest --extra dev --extra demo --no-annotate \
		--custom-compile-command "make lock" $(UPGRADE) -o constraints.txt pyproject.toml

clean:  ## remove caches and build outputs; keeps .venv
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
