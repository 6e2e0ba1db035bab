.PHONY: install demo serve test lint bench

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.bitbudget-installed

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[server,worker,cluster,dev]'
	touch $(STAMP)

demo: install
	$(BIN)/bitbudget demo $(if $(MODEL),--model "$(MODEL)") $(if $(BUDGET),--budget "$(BUDGET)")

serve: install
	$(BIN)/bitbudget serve

test: install lint
	$(BIN)/python -m bitbudget.workers.native.preload -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks.allocation
	$(BIN)/python -m benchmarks.measure
	$(BIN)/python -m bitbudget.workers.native.preload -m benchmarks.quality
