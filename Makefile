# `make demo` and `make test` need only Python 3.11+ (with venv) and make; the rest is installed into .venv.
# Options: PYTHON=python3.12 (interpreter), TORCH="torch==2.13.0" (which torch); see scripts/setup-venv.

BIN := .venv/bin
PY := $(BIN)/python
READY := .venv/.ready
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS)

export PYTHON TORCH

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit slow format docs clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## */\1\t/p' Makefile | expand -t 10

$(READY): pyproject.toml scripts/setup-venv
	@scripts/setup-venv

setup:  ## make .venv with everything below in it, or bring it up to date
	@scripts/setup-venv

demo: $(READY)  ## compress the small built-in teacher, offline, in minutes
	$(BIN)/sottovoce demo

test: lint unit  ## every check that a change must pass

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
	$(PY) -m mkdocs build --strict

clean:  ## remove caches and build outputs; keeps .venv
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
