# Set-up is a matter of the stamps in .venv: what is in place is skipped.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak check format bench clean

demo: .venv/.demo
	$(BIN)/inceptionv4 train --recipe digits
	$(BIN)/inceptionv4 evaluate runs/digits --data digits
	$(BIN)/inceptionv4 predict runs/digits examples/seven.png
	@echo "The newest folder in runs/digits holds the settings, the log, the checkpoints and plots/curves.png."

test: .venv/.test
	$(BIN)/pytest

soak: .venv/.test
	$(BIN)/pytest tests/soak --override-ini 'addopts=--strict-markers -ra'

check: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/.test
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/index.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/storage.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[plots]'
	@touch $@

.venv/.test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ .venv/.demo
