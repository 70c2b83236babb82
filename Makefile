# Every task. `make` alone prints them. Needs Python 3.11 or newer and nothing else; what else it needs goes into .venv.
PYTHON ?= python3
RUN = .venv/bin/python -m

.PHONY: help install run test lint format migrate rollback migration-status migrate-unlock load-catalog

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:
	@"$(PYTHON)" install.py

run: install  ## run the service here, with a database, a real curriculum and learners to try (Ctrl-C stops it)
	@$(RUN) app.demo

test: install  ## run the tests, on a PostgreSQL of their own
	@$(RUN) pytest

lint: install  ## check code, types, SQL and migrations
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) sqlfluff lint --disable-progress-bar sql migrations
	@.venv/bin/squawk migrations/*.sql

format: install  ## format the Python code
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .
