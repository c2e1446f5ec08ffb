PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup check format test test-fast test-nodes docs demo demo-long clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/installed ## make the environment with the pinned versions of constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

check: setup ## lint, format, spelling, import rules and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy

format: setup ## format the code and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check ## check, then run all tests, in WORKERS processes (2)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-fast: setup ## the tests that are not marked slow: under 90 seconds on 2 cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

NODES_TORCH ?= torch
NODES_TESTS ?= tests/contracts tests/data tests/server tests/trainer tests/test_dependencies.py

test-nodes: ## server, client and trainer without the extra convert, newest versions (NODES_TORCH=torch==... for one)
	$(PYTHON) -m venv .venv-nodes
	.venv-nodes/bin/python -m pip install --disable-pip-version-check --upgrade --upgrade-strategy eager \
		-e '.[serve,train]' '$(NODES_TORCH)' hypothesis pytest pytest-timeout pytest-xdist
	.venv-nodes/bin/python -m pytest -n $(WORKERS) --dist loadfile $(NODES_TESTS)

docs: setup ## build the documentation into site/; a dead link is an error
	MYPYPATH=docs/hooks $(BIN)/mypy docs/hooks
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

demo: setup ## the main job on real text, with kills and an audit: about 2 and a half minutes on 2 cores
	$(BIN)/python -m benchmarks.demo

demo-long: setup ## training with and without superposition, compared: about 11 minutes on 2 cores
	$(BIN)/python -m benchmarks.demo --long

clean: ## remove the environments and all output
	rm -rf $(VENV) .venv-* demo-output demo-long-output site build dist *.egg-info
