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
# `make test ALL=1` adds what takes long and the comparisons with an installed nnU-Net v2, one after the other.
TESTS := $(if $(ALL),,-n auto -m "not slow and not peer")
DIST ?= dist

# Stamps: an environment is made again when what it is made from has changed.
CORE := $(VENV)/.installed-core
RUNTIME := $(VENV)/.installed-runtime
DEV := $(VENV)/.installed-dev

.PHONY: help demo demo-plan test check parity bench wheel docs format clean

help:
	@echo "make demo    plan data that ships with the project, train all of it, choose, predict and score (some minutes)"
	@echo "make demo-plan  the planning part alone (seconds, without PyTorch)"
	@echo "make test    run the tests; ALL=1 adds slow ones and comparisons with an installed nnU-Net v2"
	@echo "make check   lint, format, types, module boundaries, schemas, rules and their tests"
	@echo "make parity  compare every stage with nnU-Net v2, recorded and installed (into .bench/peer)"
	@echo "make bench   measure planning and the runtime (installs nnU-Net v2 into .bench/peer to compare)"
	@echo "make wheel   build the sdist and the wheel into dist/"
	@echo "make docs    update the tables and transcripts in docs/ (transcripts need the shared data)"
	@echo "make format  format the Python files"
	@echo "make clean   remove the environment, the caches and what was built"

# The demo goes from images to scores by the commands that a user would type; each is shown before it runs.
DEMO ?= demo-output
DEMO_DATASET := $(DEMO)/datasets/Dataset903_PhantomBrain
DEMO_PLAN := $(DEMO)/plans/brain_left_right.json
# So little memory that a patch sees a tenth of a scan, which asks for a cascade; two folds and short trainings.
# nnU-Net mirrors along every axis, so that it cannot learn left from right; this demo's labels are left and right.
DEMO_ASKED := --gpu-memory-gb 0.03 --set folds.num_folds=2 --set configurations.2d.mirror_axes=[0] \
  $(foreach name,fullres lowres,--set configurations.3d_$(name).mirror_axes=[0,1])
DEMO_SHORT := --set training.epochs=5 --set training.num_iterations_per_epoch=20 \
  --set training.num_validation_iterations_per_epoch=2
DEMO_BUNDLE := $(DEMO)/brain.nnrules
SHOW = printf '\n$$ %s\n' '$(1)'; $(VENV)/bin/$(1)

demo-plan: $(CORE)
	@$(VENV)/bin/nnrules demo -o $(DEMO)

demo: $(RUNTIME) demo-plan
	@printf '\n5. The brain phantom through the whole method: 2D, 3D, cascade; the best of them; two new scans\n'
	@$(call SHOW,nnrules plan $(DEMO_DATASET) $(DEMO_ASKED) -o $(DEMO_PLAN))
	@$(call SHOW,nnrules run all $(DEMO_PLAN) $(DEMO_DATASET) --work $(DEMO)/work $(DEMO_SHORT) --bundle $(DEMO_BUNDLE) --licence CC0-1.0)
	@$(call SHOW,nnrules run predict $(DEMO_BUNDLE) $(DEMO_DATASET)/imagesTs $(DEMO)/predictions)
	@$(call SHOW,nnrules run evaluate $(DEMO_PLAN) $(DEMO)/predictions $(DEMO_DATASET)/labelsTs)

test: $(DEV)
	@$(VENV)/bin/python -m pytest $(TESTS) $(PYTEST_ARGS)

parity: $(DEV)
	@NNRULES_PEER=install $(VENV)/bin/python -m pytest -m "peer or shared" -rA tests/golden $(PYTEST_ARGS)

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

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing nnrules with PyTorch into $(VENV) (some minutes) ..."
	@$(PIP_INSTALL) -e ".[runtime,report]"
	@touch $(CORE) $@

$(DEV): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing nnrules and its development tools into $(VENV) (a minute or two) ..."
	@$(PIP_INSTALL) -e ".[dev]"
	@touch $(CORE) $(RUNTIME) $@
