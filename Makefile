# Everything runs in .venv, made here from the lock files. Needs Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check bench fuzz openapi format lock clean

run: $(VENV)/.run  ## Serve on http://127.0.0.1:8000 with an embedded PostgreSQL
	exec $(BIN)/python -m app serve

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.dev  ## Lint, types, imports, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(VENV)/.dev  ## Measure against the peers, side by side; takes some minutes
	$(BIN)/python benchmarks/run.py

fuzz: $(VENV)/.fuzz  ## 20,000 requests by the API's own document, then ten minutes of bodies for the multipart parser
	$(BIN)/python -m tests.fuzz.http
	$(BIN)/python -m tests.fuzz.parser

openapi: $(VENV)/.dev  ## Write openapi.json anew
	$(BIN)/boatload openapi > openapi.json

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.dev  ## Pin the newest versions that pyproject.toml allows; hashes only, no addresses
	$(PIP) uv
	for group in "" dev fuzz; do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links pyproject.toml $${group:+--group $$group} \
	    -o requirements$${group:+-$$group}.lock || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(VENV)/.dev
	$(PIP) --require-hashes -r requirements-fuzz.lock
	@touch $@
