# Everything starts here. Each target sets up the virtual environment that it needs, so a fresh checkout needs
# only Python 3.11 or later and make. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The environment and the interpreter can be chosen: `make test VENV=/some/folder PYTHON=python3.12`.
VENV ?= .venv
PYTHON ?= $(shell for name in python3.11 python3 python; do \
  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; break; fi; done)
PIP_INSTALL = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
PYTEST_ARGS ?=
DIST ?= dist

# Stamps: an environment is made again when what it is made from has changed.
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev

.PHONY: help demo test check bench wheel docs format clean

help:
	@echo "make demo    plan a small dataset that ships with the project, and explain the plan"
	@echo "make test    run the tests"
	@echo "make check   lint, format, types, module boundaries, schemas, rules and their tests"
	@echo "make bench   measure planning and fingerprinting (installs nnU-Net v2 into .bench/peer to compare)"
	@echo "make wheel   build the sdist and the wheel into dist/"
	@echo "make docs    update the tables and transcripts in docs/ (transcripts need the shared data)"
	@echo "make format  format the Python files"
	@echo "make clean   remove the environment, the caches and what was built"

demo: $(CORE)
	@$(VENV)/bin/nnrules demo

test: $(DEV)
	@$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

# Every check runs, also after one has failed, so that one run shows all that is wrong.
check: $(DEV)
	@failed=(); \
	run() { echo "-- $$*"; "$(VENV)/bin/$$1" "$${@:2}" || failed+=("$$*"); }; \
	run ruff check .; \
	run ruff format --check --quiet .; \
	run mypy; \
	run lint-imports --no-cache; \
	run check-jsonschema --check-metaschema schemas/*.json; \
	run nnrules rules lint; \
	run nnrules rules lock --check; \
	run nnrules rules test --coverage; \
	if (( $${#failed[@]} )); then printf 'failed: %s\n' "$${failed[@]}" >&2; exit 1; fi

bench: $(DEV)
	@$(VENV)/bin/python tests/benchmarks/bench.py

wheel: $(DEV)
	@$(VENV)/bin/python -m build --outdir $(DIST) .

HIPPOCAMPUS ?= ../shared/data/hippocampus

docs: $(DEV)
	@$(VENV)/bin/python docs/tables.py
	@if [ -d $(HIPPOCAMPUS) ]; then $(VENV)/bin/python docs/transcripts.py $(HIPPOCAMPUS); \
	else echo "$(HIPPOCAMPUS) is absent: transcripts are left as they are"; fi

format: $(DEV)
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .bench build dist htmlcov demo-output .coverage* .hypothesis .import_linter_cache .*_cache
	find . -name __pycache__ -type d -not -path './.*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "No Python 3.11 or later was found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "Creating $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing nnrules into $(VENV) ..."
	@$(PIP_INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing nnrules and its development tools into $(VENV) (a minute or two) ..."
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $(CORE) $@
