# Set-up is a matter of the stamps in .venv: what is in place is skipped.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak check check-isa format bench bench-quick clean

demo: .venv/.demo
	$(BIN)/inceptionv4 train --recipe digits
	$(BIN)/inceptionv4 evaluate runs/digits --data digits
	$(BIN)/inceptionv4 predict runs/digits examples/seven.png
	@echo "The newest folder in runs/digits holds the settings, the log, the checkpoints and plots/curves.png."

test: .venv/.test
	$(BIN)/pytest

soak: .venv/.test
	$(BIN)/pytest tests/soak --override-ini 'addopts=--strict-markers -ra'
	$(BIN)/pytest -m slow

check: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests that hold on any CPU, with fewer instructions than this one has: up to two minutes.
check-isa: .venv/.test
	$(BIN)/python tools/check_isa.py

format: .venv/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Every comparison with others, and what grows: most of an hour. BENCH=--json for figures in full.
bench: .venv/.bench
	$(BIN)/python benchmarks/loader.py $(BENCH)
	$(BIN)/python benchmarks/sample.py $(BENCH)
	$(BIN)/python benchmarks/train_step.py $(BENCH)
	$(BIN)/python benchmarks/predict.py $(BENCH)
	$(BIN)/python benchmarks/serve.py $(BENCH)
	$(BIN)/python benchmarks/scaled_decoding.py $(BENCH)
	$(BIN)/python benchmarks/index.py $(BENCH)
	$(BIN)/python benchmarks/growth.py $(BENCH)
	$(BIN)/python benchmarks/storage.py $(BENCH)
	$(BIN)/python benchmarks/gate.py --model runs/digits --data digits  # after `make demo`

# The ratios, each of a round or two.
bench-quick: .venv/.bench
	$(BIN)/python benchmarks/loader.py --quick --rounds 1
	$(BIN)/python benchmarks/train_step.py --quick --rounds 1
	$(BIN)/python benchmarks/predict.py --rounds 1 --images 16 --precisions int8

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

.venv/.bench: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@
