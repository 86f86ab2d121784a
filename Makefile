# Works with Python >= 3.11, pip and make. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP = $(shell test -x $(BIN)/pip && echo $(BIN)/pip || echo $(PYTHON) -m pip --python $(BIN)/python)
INSTALL = $(PIP) install --quiet -c constraints.txt
SPELLED = geomlib tests docs recipes datasets scripts README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-slow lint docs bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# A stamp file is newer than what it was made from, so an environment is only changed when its requirements are.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[test,md,labels]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[docs]'
	@touch $@ $(VENV)/.core

venv: $(VENV)/.core  ## the environment in .venv, with what geomlib needs to run

quickstart: $(VENV)/.core  ## train a small potential, test it, run MD with it, write a report
	PATH="$(abspath $(BIN)):$$PATH" sh scripts/quickstart.sh

test: $(VENV)/.test  ## the tests, without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-slow: $(VENV)/.test  ## the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(VENV)/.test  ## format, lint, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell $(wildcard $(SPELLED))

docs: $(VENV)/.docs  ## the documentation in docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

bench: $(VENV)/.core  ## speed and memory of the water example model
	$(BIN)/python scripts/benchmarks/dpa3.py

clean:  ## remove what can be made again; runs/ stays
	rm -rf $(VENV) build dist docs/_build docs/_generated docs/jupyter_execute .pytest_cache .mypy_cache .ruff_cache
