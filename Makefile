# Four words: serve, test, check, bench. Needs Python 3.11 or newer and a package registry; everything else is set up here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check bench format requirements clean

serve: $(VENV)/run
	$(BIN)/waypost serve $(ARGS)

test: $(VENV)/dev
	$(BIN)/python -m pytest -n auto $(ARGS)

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house_rules.py

bench: $(VENV)/dev
	$(BIN)/python -m bench $(ARGS)

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What is installed is pinned by hash; `make requirements` makes the pins anew from pyproject.toml.
requirements:
	$(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip install --quiet --upgrade pip pip-tools
	for name in run:build dev:dev; do $(VENV)-pins/bin/pip-compile --quiet --upgrade --strip-extras --generate-hashes --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate --extra $${name#*:} --extra postgresql --extra valkey --output-file requirements/$${name%:*}.txt pyproject.toml; done
	rm -rf $(VENV)-pins

$(VENV)/run: requirements/run.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
