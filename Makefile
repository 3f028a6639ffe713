# `make demo` and `make test` need nothing but Python 3.11 or newer with venv, and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/installed
PEERS = $(VENV)/peers-installed

.PHONY: demo test lint types migrations tests history hammer bench bench-outage bench-scan clean

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
	$(BIN)/python -X dev -m pytest -n auto --dist loadgroup --max-worker-restart 1 $(ARGS)

history: $(STAMP)  ## Minutes of reads and writes in several processes, each fault twice, and nothing old; HISTORY_SEED chooses them
	HISTORY_SECONDS=60 $(BIN)/python -X dev -m pytest tests/history $(ARGS)

hammer: $(STAMP)  ## Two visitors ask for the same 100,000 pages from 8 threads, and nobody gets what is another's
	HAMMER_REQUESTS=100000 $(BIN)/python -m pytest tests/views/test_servers.py -k another_visitor -s -o faulthandler_timeout=0 $(ARGS)

bench: $(PEERS)  ## Ours and its peers in one run; prints the tables of docs/benchmarks.md
	$(BIN)/python -m benchmarks.hits
	$(BIN)/python -m benchmarks.views
	$(BIN)/python -m benchmarks.misses
	$(BIN)/python -m benchmarks.stampede
	$(BIN)/python -m benchmarks.stale
	$(BIN)/python -m benchmarks.lists
	$(BIN)/python -m benchmarks.codecs

bench-outage: $(PEERS)  ## While Redis is gone, refused and frozen, and when it is back: a call, and a whole site
	$(BIN)/python -m benchmarks.outage
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.site

bench-scan: $(PEERS)  ## Walking, describing and deleting a million keys, beside redis-py, redis-cli and django-redis
	$(BIN)/python -m benchmarks.scan

$(STAMP): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt --editable .
	touch $@

$(PEERS): benchmarks/requirements.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* *.egg-info demo.sqlite3*
