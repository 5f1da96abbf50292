# Every command of the project. `make` lists them. `make setup` runs by itself where it is needed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
AGEVLM := $(VENV)/bin/agevlm
FAST := not system and not chaos

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 20

.PHONY: setup
setup: $(READY) ## make .venv from requirements.lock (done by every other command where it is needed)

$(READY): requirements.lock scripts/setup.sh
	@scripts/setup.sh

.PHONY: demo
demo: $(READY) ## the whole recipe in small, end to end, with live progress
	@$(AGEVLM) demo

.PHONY: up
up: $(READY) ## start the local stack
	@$(AGEVLM) up

.PHONY: down
down: $(READY) ## end the local stack
	@$(AGEVLM) down

.PHONY: test
test: $(READY) ## the fast tests
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "$(FAST)"

.PHONY: test-system
test-system: $(READY) ## real servers, a browser, several processes
	@$(PYTHON) -m pytest -m system --timeout 1500

.PHONY: chaos
chaos: $(READY) ## seeded kills
	@$(PYTHON) -m pytest -m chaos --timeout 1800

.PHONY: bench
bench: $(READY) ## measurements; they print ratios and fail nothing
	@$(PYTHON) -m pytest tests/bench -s --timeout 1800

.PHONY: check
check: $(READY) ## style, types and layers
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

.PHONY: format
format: $(READY) ## put the sources into the project's style
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

.PHONY: miniature-models
miniature-models: $(READY) ## train the shipped miniature teachers and backbones from scratch, seeded
	@$(PYTHON) -m model.miniature.train

.PHONY: lock
lock: $(READY) ## resolve pyproject.toml into requirements.lock
	@scripts/uv.sh pip compile pyproject.toml --group dev --no-header --no-emit-index-url --python-version 3.11 \
	  --quiet -o requirements.lock
	@if grep -nE 'https?://|index-url|find-links' requirements.lock; then \
	  echo 'requirements.lock names a host; it must not' >&2; exit 1; fi

.PHONY: clean
clean: ## end the stack, then remove its state, every artifact, caches and .venv
	@if [ -f $(READY) ]; then $(AGEVLM) down; fi
	@rm -rf $(VENV) .venv-uv .agevlm .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
