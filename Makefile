.PHONY: install demo serve test test-fast test-package coverage lint format docs profile bench

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.bitbudget-installed
PYTEST = $(BIN)/python -m bitbudget.workers.native.preload -m pytest
FAST = tests/test_house.py tests/docs tests/app/core tests/app/http tests/app/storage tests/app/dashboard \
	tests/workers/encoders tests/workers/sweep --ignore=tests/app/core/mckp/test_rows.py

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[server,worker,cluster,dev]'
	touch $(STAMP)

demo: install  ## start a server and a worker here and fit the sample model
	$(BIN)/bitbudget demo $(if $(MODEL),--model "$(MODEL)") $(if $(BUDGET),--budget "$(BUDGET)") $(if $(EFFORT),--effort "$(EFFORT)")

serve: install  ## start the server with its dashboard
	$(BIN)/bitbudget serve

test: install lint  ## everything but `slow` and `package`
	$(PYTEST) -n 2 $(PYTEST_ARGS)
	$(PYTEST) -n 0 -m timed $$(grep -rl "mark[.]timed" --include="*.py" tests)

test-fast: install  ## the parts without processes, browsers and whole models: under a minute
	$(PYTEST) -n 2 -q $(FAST) -m "not slow and not package and not e2e and not postgres and not contract and not chaos and not timed"

test-package: install  ## build wheel and source distribution, install the wheel elsewhere, use it
	$(BIN)/python -m pytest -n 0 -m "package and not slow" tests/package

coverage: install  ## everything again, and which lines of ours it ran
	$(PYTEST) -n 2 --cov --cov-report=term:skip-covered

lint: install  ## what is checked before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## the documentation as a site in build/site; a broken link is an error
	$(BIN)/python -m tools.import_graph
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

profile: install  ## where the time of measuring the sample model goes
	$(BIN)/python -m bitbudget.workers.native.preload -m tools.profile_measurement

bench: install
	$(BIN)/python -m benchmarks.allocation
	$(BIN)/python -m benchmarks.measure
	$(BIN)/python -m bitbudget.workers.native.preload -m benchmarks.quality
