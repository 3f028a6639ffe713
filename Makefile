# `make demo` and `make test` need nothing but Python 3.11 or newer with venv, and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed
PEERS = $(VENV)/peers-installed

.PHONY: demo test lint types migrations tests bench bench-outage clean

demo: $(STAMP)  ## The story of an outage, told by the demo shop on a real server
	$(BIN)/python manage.py demo

test: lint types migrations tests  ## All that CI asks for, on this Python

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

migrations: $(STAMP)
	$(BIN)/python manage.py makemigrations --check --dry-run

tests: $(STAMP)
	$(BIN)/python -X dev -m pytest -n auto --dist loadgroup $(ARGS)

bench: $(PEERS)  ## Ours and its peers in one run; prints the tables of docs/benchmarks.md
	$(BIN)/python -m benchmarks.hits
	$(BIN)/python -m benchmarks.misses
	$(BIN)/python -m benchmarks.stampede
	$(BIN)/python -m benchmarks.stale
	$(BIN)/python -m benchmarks.lists
	$(BIN)/python -m benchmarks.codecs

bench-outage: $(PEERS)  ## While Redis is gone, refused and frozen: a call, and a whole site
	$(BIN)/python -m benchmarks.outage
	$(BIN)/python -m benchmarks.site

$(STAMP): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt --editable .
	touch $@

$(PEERS): benchmarks/requirements.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* *.egg-info demo.sqlite3*
