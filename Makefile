# make demo     sets everything up and runs the main job on real text (about 10 minutes on 2 cores)
# make test     sets everything up, then lints, checks types and runs the tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup test lint demo demo-quick clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

demo: setup
	$(BIN)/python -m benchmarks.demo

demo-quick: setup
	$(BIN)/python -m benchmarks.demo --quick

clean:
	rm -rf $(VENV) demo-output demo-quick-output
