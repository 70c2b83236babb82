# Every task. `make` alone prints them. Needs Python 3.11 or newer and nothing else; what else it needs goes into .venv.
PYTHON ?= python3
RUN = .venv/bin/python -m
LOCK = --upgrade --universal --python-version 3.11 --generate-hashes --no-header --quiet

# What is given to make on its command line reaches a task through the environment, as it is: neither make nor a shell
# reads a value. A login shell's own USER, or any such variable that was there before, does not.
$(foreach name,USER FILE DRY_RUN CONFIRM EMAIL NAME UNTIL HOURS SIZE URL SECONDS,\
	$(if $(filter command,$(origin $(name))),\
		$(eval override export $(name) := $$(value $(name))),\
		$(eval unexport $(name))))

.PHONY: help install run test test-deep test-system mutate audit scale-data explain bench lint format migrate rollback migration-status migrate-unlock load-catalog \
	add-user grant-free revoke-free access stripe-sync stripe-event token lock


help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "install: there is no $(PYTHON); install Python 3.11 or newer, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" install.py $(MAKECMDGOALS)

run: install  ## run the service here, with a database, a real curriculum and learners to try (Ctrl-C stops it)
	@$(RUN) app.demo

test: install  ## run the tests, on a PostgreSQL of their own
	@$(RUN) pytest -n auto --dist loadfile --ignore=tests/system

test-deep: install  ## run the proofs with many more examples, and others each time
	@PROGRESS_DEEP=1 $(RUN) pytest -n auto --dist loadfile --no-loadscope-reorder tests/proof

test-system: install  ## run what needs more than Python; as root on Debian it installs that
	@$(RUN) tests.system

mutate: install  ## change the SQL and the pure modules in one place at a time, and see that a test fails each time [FILE=...]
	@$(RUN) tests.mutation

audit: install  ## list every package's licence, and ask for known vulnerabilities
	@$(RUN) tests.licences
	@$(RUN) pip_audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements-system.txt

scale-data: install  ## fill a database of its own: SIZE=small|middle|large [URL=...]
	@$(RUN) tests.bench.scale

explain: install  ## show how PostgreSQL runs each file of sql/ [SIZE=small|middle|large]
	@$(RUN) tests.bench.explain

bench: install  ## measure the service against a bare Flask app [SIZE=small|large SECONDS=2]
	@$(RUN) tests.bench

lint: install  ## check code, types, SQL and migrations
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) pytest -q tests/test_locks.py
	@$(RUN) sqlfluff lint --disable-progress-bar sql migrations
	@.venv/bin/squawk migrations/*.sql

format: install  ## format the Python code
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

migrate: install  ## apply the pending migrations to DATABASE_URL
	@$(RUN) app.cli migrate

rollback: install  ## take the newest migration back; CONFIRM=yes where that drops data
	@$(RUN) app.cli rollback

migration-status: install  ## list the migrations, applied and pending
	@$(RUN) app.cli migration-status

migrate-unlock: install  ## remove the lock of a migration run that was killed
	@$(RUN) app.cli migrate-unlock

load-catalog: install  ## make the catalog what FILE=... says; DRY_RUN=1 shows what that would do
	@$(RUN) app.cli load-catalog

add-user: install  ## add the learner USER=<uuid> [EMAIL=... NAME=...]
	@$(RUN) app.cli add-user

grant-free: install  ## give USER=<uuid> the free path [UNTIL=2027-01-31]
	@$(RUN) app.cli grant-free

revoke-free: install  ## take the free path from USER=<uuid>
	@$(RUN) app.cli revoke-free

access: install  ## say what access USER=<uuid> has, and why
	@$(RUN) app.cli access

stripe-sync: install  ## fetch every subscription from Stripe by STRIPE_API_KEY, and mend what differs
	@$(RUN) app.cli stripe-sync

stripe-event: install  ## send the event of Stripe's in FILE=... to the service of `make run`, signed
	@$(RUN) app.demo.stripe_event

token: install  ## sign a token for USER=<uuid> with AUTH_JWT_SECRET [HOURS=12]
	@$(RUN) app.cli token

lock: install  ## renew the locks, requirements*.txt, from the ranges in pyproject.toml
	@$(RUN) uv pip compile $(LOCK) pyproject.toml -o requirements.txt
	@$(RUN) uv pip compile $(LOCK) --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	@$(RUN) uv pip compile $(LOCK) --extra dev --extra system -c requirements-dev.txt pyproject.toml -o requirements-system.txt
