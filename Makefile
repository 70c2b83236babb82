# Every task. `make` alone prints them. They need Python 3.11 or newer, and install everything else into .venv.
PYTHON ?= python3
RUN = .venv/bin/python -m
LOCK = --upgrade --universal --python-version 3.11 --generate-hashes --no-header --quiet

# A variable on the command line of make reaches a task through the environment, unchanged: neither make nor a shell
# interprets its value. A variable that was in the environment before, such as a login shell's USER, does not reach it.
$(foreach name,USER COURSE MODULE LESSON AT EVENT ROLE FILE DRY_RUN PARTIAL CONFIRM EMAIL NAME UNTIL HOURS SIZE URL SECONDS SKIP USERS LESSONS \
	USER_COLUMN LESSON_COLUMN TIME_COLUMN SINCE FORMAT REPORTS,\
	$(if $(filter command,$(origin $(name))),\
		$(eval override export $(name) := $$(value $(name))),\
		$(eval unexport $(name))))

.PHONY: help install install-dev install-system run test test-deep test-crash test-system mutate audit scale-data explain bench bench-connections lint format migrate rollback migration-status migrate-unlock grants load-catalog \
	learner-id add-user grant-free revoke-free grant-course revoke-course access mark unmark start-over complete stripe-sync stripe-event deliver events redeliver token lock progress export-user erase-user import-progress export-progress report


help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Each task asks for what it needs and no more: `install` is the service and PostgreSQL, `install-dev` adds the tests and the
# checks, `install-system` adds the tools of the long checks.
install install-dev install-system:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "install: there is no $(PYTHON); install Python 3.11 or newer, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" install.py $@ $(MAKECMDGOALS)

run: install  ## run the service on this machine, with a database, real curricula and learners to try (Ctrl-C stops it)
	@$(RUN) app.demo

test: install-dev  ## run the tests, on a PostgreSQL of their own
	@$(RUN) pytest -n auto --dist loadfile --no-loadscope-reorder --ignore=tests/system

test-deep: install-dev  ## run the proofs with many more examples, different ones each time
	@PROGRESS_DEEP=1 $(RUN) pytest -n auto --dist loadfile --no-loadscope-reorder tests/proof

test-crash: install-dev  ## kill gunicorn, deliverers and PostgreSQL a hundred times; no write and no event may get lost
	@PROGRESS_DEEP=1 $(RUN) pytest tests/proof/test_event_crash.py

test-system: install-system  ## run the tests that need more than Python; as root on Debian, install what they need
	@$(RUN) tests.system

mutate: install-system  ## change the SQL and the pure modules in one place at a time; print what no test notices [FILE=...]
	@$(RUN) tests.mutation

audit: install-system  ## write the licence of every package, and ask for known vulnerabilities
	@$(RUN) tests.licences
	@$(RUN) pip_audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements-system.txt

scale-data: install-dev  ## fill a database for measuring: SIZE=small|middle|large [URL=...]
	@$(RUN) tests.bench.scale

explain: install-dev  ## show how PostgreSQL runs each file of sql/ [SIZE=small|middle|large]
	@$(RUN) tests.bench.explain

bench: install-dev  ## measure the service against a bare Flask app [SIZE=small|large SECONDS=2]
	@$(RUN) tests.bench

bench-connections: install-dev  ## measure how connections spread over the workers, and what many of them cost a caller
	@$(RUN) tests.bench.connections

lint: install-dev  ## check code, types, SQL and migrations
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) pytest -q tests/test_locks.py
	@$(RUN) sqlfluff lint --disable-progress-bar sql migrations
	@.venv/bin/squawk migrations/*.sql

format: install-dev  ## format the Python code
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

migrate: install  ## apply the pending migrations to DATABASE_URL
	@$(RUN) app.cli migrate

rollback: install  ## take the newest migration back; CONFIRM=yes if that drops data
	@$(RUN) app.cli rollback

migration-status: install  ## list the migrations, applied and pending
	@$(RUN) app.cli migration-status

migrate-unlock: install  ## remove the lock of a migration run that was killed
	@$(RUN) app.cli migrate-unlock

grants: install  ## give ROLE=... the rights of the service, as deploy/grants.sql does; REPORTS=1: those for reports alone
	@$(RUN) app.cli grants

load-catalog: install  ## make the catalog equal to FILE=...; PARTIAL=1 leaves the rest alone; DRY_RUN=1 changes nothing
	@$(RUN) app.cli load-catalog

learner-id: install  ## print the UUID by which the service knows the user USER=<id>
	@$(RUN) app.cli learner-id

add-user: install  ## add the learner USER=<id> [EMAIL=... NAME=...]
	@$(RUN) app.cli add-user

grant-free: install  ## give USER=<id> free access [UNTIL=2027-01-31]
	@$(RUN) app.cli grant-free

revoke-free: install  ## take free access away from USER=<id>
	@$(RUN) app.cli revoke-free

grant-course: install  ## give USER=<id> the course COURSE=<id> [UNTIL=2027-01-31]
	@$(RUN) app.cli grant-course

revoke-course: install  ## end the course COURSE=<id> that USER=<id> was given by hand or by the site
	@$(RUN) app.cli revoke-course

access: install  ## show which access USER=<id> has, and why
	@$(RUN) app.cli access

progress: install  ## show what USER=<id> sees: access, counts, what is next, what is locked by what, completions
	@$(RUN) app.cli progress
export-user: install  ## print everything that is stored of USER=<id>, as JSON
	@$(RUN) app.cli export-user

erase-user: install  ## remove everything that is stored of USER=<id>; without CONFIRM=yes, say what there is
	@$(RUN) app.cli erase-user

mark: install  ## mark LESSON=<id> as completed by USER=<id>, on their behalf [AT=2026-11-23T08:42:30Z]
	@$(RUN) app.cli mark

unmark: install  ## remove the mark of LESSON=<id> by USER=<id>, on their behalf
	@$(RUN) app.cli unmark

start-over: install  ## remove the marks of USER=<id> in [COURSE=<id> or MODULE=<id>], or all of them, on their behalf
	@$(RUN) app.cli start-over

import-progress: install  ## store the completions in the CSV file FILE=...; SKIP=1 leaves out wrong rows; DRY_RUN=1 changes nothing
	@$(RUN) app.cli import-progress

export-progress: install  ## write every completion into the CSV file FILE=...
	@$(RUN) app.cli export-progress

complete: install  ## write the completions of modules and courses that no mark has written
	@$(RUN) app.cli complete

report: install  ## print NAME=lessons|modules|courses|learners|days|stuck|completions [COURSE=<id> SINCE=2026-01-31 FORMAT=csv]
	@$(RUN) app.cli report

stripe-sync: install  ## read every subscription from Stripe with STRIPE_API_KEY, and correct what differs
	@$(RUN) app.cli stripe-sync

stripe-event: install  ## send the Stripe event in FILE=..., signed, to the service of `make run`
	@$(RUN) app.demo.stripe_event

deliver: install  ## send the events of DATABASE_URL to WEBHOOK_URL, until it is stopped
	@exec $(RUN) app.cli deliver

events: install  ## list the events that wait or were given up
	@$(RUN) app.cli events

redeliver: install  ## send all events that were given up again, or the one event EVENT=<webhook-id>
	@$(RUN) app.cli redeliver

token: install  ## sign a token for USER=<id> with AUTH_JWT_SECRET [HOURS=12]
	@$(RUN) app.cli token

lock: install-dev  ## renew the locks, requirements*.txt, from the ranges in pyproject.toml
	@$(RUN) uv pip compile $(LOCK) pyproject.toml -o requirements.txt
	@$(RUN) uv pip compile $(LOCK) --extra demo -c requirements.txt pyproject.toml -o requirements-demo.txt
	@$(RUN) uv pip compile $(LOCK) --extra demo --extra dev -c requirements-demo.txt pyproject.toml -o requirements-dev.txt
	@$(RUN) uv pip compile $(LOCK) --extra demo --extra dev --extra system -c requirements-dev.txt pyproject.toml -o requirements-system.txt
