"""The migrations: any number of runs at once, up and down, beside a site's own users table, and after a kill."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from app.database import ROOT, known_migrations
from app.demo.postgres import bindir
from tests.test_cli import Answer, ended, run, spawn

NAMES = ["0001_users", "0002_catalog", "0003_access", "0004_progress", "0005_rate_limits", "0006_stripe"]
# The last one that refers to users, and those from it on.
PROGRESS = NAMES[3:]
TABLES = [
    "enrollments",
    "lesson_prerequisites",
    "lessons",
    "modules",
    "progress",
    "rate_limits",
    "stripe_customers",
    "stripe_subscriptions",
    "subscriptions",
    "users",
]
APPLIED = (0, "".join(f"applied {name}\n" for name in NAMES), "")
NOTHING = (0, "nothing to do: every migration is applied\n", "")
LOCKED = "Error: someone else holds a lock on a table; try again\n"
PRIMARY_KEY = (
    'Error: the users table that is already here must have "id uuid" as its primary key. '
    "Give it one, or let the service live in a schema or database of its own and fill users there.\n"
)
FOLDER = ROOT / "migrations"
ROLLBACKS = sorted(FOLDER.glob("*.rollback.sql"))


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        yield connection


def execute(url: str, query: str) -> None:
    with connected(url) as connection:
        connection.execute(query)


def schema(url: str, *options: str) -> str:
    """The whole schema, as pg_dump writes it, but for the keys that it draws at random."""
    command = [str(bindir() / "pg_dump"), "--schema-only", "--no-acl", *options, url]
    dump = subprocess.run(command, check=True, capture_output=True, text=True)
    return re.sub(r"^\\(un)?restrict .*\n", "", dump.stdout, flags=re.M)


def tables(url: str) -> list[str]:
    """The tables that are there, but for those of the migrations themselves."""
    with connected(url) as connection:
        rows = connection.execute(
            "select tablename from pg_tables where schemaname = 'public' and tablename !~ 'yoyo' order by 1"
        ).fetchall()
    return [name for (name,) in rows]


def applied(url: str) -> list[str]:
    with connected(url) as connection:
        return [name for (name,) in connection.execute("select migration_id from _yoyo_migration order by 1")]


def rollback(url: str, **variables: str) -> Answer:
    return run(url, "rollback", CONFIRM="yes", **variables)


@pytest.fixture
def empty(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def migrated(empty: str) -> str:
    assert run(empty, "migrate") == APPLIED
    return empty


def test_the_migrations_are_these_and_each_has_a_rollback():
    assert known_migrations() == NAMES
    assert [path.name for path in ROLLBACKS] == [f"{name}.rollback.sql" for name in NAMES]


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_three_runs_at_once_on_a_fresh_database_leave_one_clean_result(empty, database_url, attempt):
    runs = [spawn(empty, "migrate") for _ in range(3)]
    assert sorted(ended(process) for process in runs) == sorted([APPLIED, NOTHING, NOTHING])
    assert schema(empty) == schema(database_url)
    assert applied(empty) == NAMES
    with connected(empty) as connection:
        assert connection.execute("select from yoyo_lock").rowcount == 0


def test_a_second_run_changes_nothing(migrated):
    before = schema(migrated)
    assert run(migrated, "migrate") == NOTHING
    assert (schema(migrated), applied(migrated)) == (before, NAMES)


def test_each_migration_goes_down_and_up_again_to_an_identical_schema(migrated):
    schemas = [schema(migrated)]
    for name in reversed(NAMES):
        assert rollback(migrated) == (0, f"took back {name}\n", "")
        schemas.append(schema(migrated))
    assert tables(migrated) == []
    assert len(set(schemas)) == len(NAMES) + 1
    assert rollback(migrated) == (0, "nothing to do: no migration is applied\n", "")
    assert run(migrated, "migrate") == APPLIED
    assert schema(migrated) == schemas[0]
    for step, name in enumerate(reversed(NAMES), 1):
        for _ in range(step):
            assert rollback(migrated)[0] == 0
        assert schema(migrated) == schemas[step]
        assert run(migrated, "migrate") == (0, "".join(f"applied {again}\n" for again in NAMES[-step:]), ""), name
        assert schema(migrated) == schemas[0]


def test_the_status_lists_what_is_applied_and_what_is_pending(migrated):
    pending = {name: f"{name:24} pending" for name in NAMES}
    assert rollback(migrated)[0] == 0
    code, out, err = run(migrated, "migration-status")
    assert (code, err) == (0, "")
    assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "<time>", out).splitlines() == [
        *(f"{name:24} applied <time>" for name in NAMES[:-1]),
        pending[NAMES[-1]],
    ]


def test_the_status_of_an_empty_database_is_pending_and_changes_nothing(empty):
    before = schema(empty)
    assert run(empty, "migration-status") == (0, "".join(f"{name:24} pending\n" for name in NAMES), "")
    assert schema(empty) == before


@pytest.mark.parametrize("path", ROLLBACKS, ids=lambda path: path.name)
def test_a_rollback_that_drops_data_says_so_in_its_first_line(path: Path):
    text = path.read_text()
    if re.search(r"\b(drop|delete|truncate)\b", re.sub(r"--.*", "", text), re.IGNORECASE):
        assert re.match(r"-- drops data: \S.*\n", text)


LOST = {
    "0006_stripe": (
        "what Stripe said of each subscription; access stays as it is, and make stripe-sync fetches the rest again"
    ),
    "0001_users": "users, unless the site brought the table itself",
    "0002_catalog": "the catalog",
    "0003_access": "subscriptions and enrollments",
    "0004_progress": "every completion of every learner",
    "0005_rate_limits": "the windows of the write limit, which fill again",
}


def test_a_rollback_that_drops_data_drops_nothing_unless_it_is_confirmed(migrated):
    for name in reversed(NAMES):
        before = schema(migrated), applied(migrated)
        refused = f"Error: taking back {name} drops {LOST[name]}; if that is meant: make rollback CONFIRM=yes\n"
        for confirm in ("", "no", "YES", "1"):
            assert run(migrated, "rollback", CONFIRM=confirm) == (1, "", refused)
        assert (schema(migrated), applied(migrated)) == before
        assert rollback(migrated)[0] == 0


def test_each_file_runs_in_psql_once_and_again(empty):
    psql = [bindir() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", empty, "-f"]
    up = [FOLDER / f"{name}.sql" for name in NAMES]
    for files, result in [(up, TABLES), (ROLLBACKS[::-1], [])]:
        for path in files * 2:
            ran = subprocess.run([*psql, path], capture_output=True, text=True)
            assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
            assert set(re.findall(r"[A-Z]{4,}:", ran.stderr)) <= {"NOTICE:"}
        assert tables(empty) == result


OWN_USERS = "create table users (id uuid {}, login text not null, email integer, unique (login){})"


@pytest.mark.parametrize(("column", "table"), [("primary key", ""), ("", ", constraint mine primary key (id)")])
def test_a_sites_own_users_table_is_left_alone_by_every_migration_and_rollback(empty, column, table):
    execute(empty, OWN_USERS.format(column, table) + "; insert into users values (gen_random_uuid(), 'one', 1)")
    whole = "select u.xmin::text, u.ctid::text, u::text, (select count(*) from pg_attribute where attrelid = 'users'::"
    whole += "regclass), obj_description('users'::regclass) from users u"
    with connected(empty) as connection:
        before = connection.execute(whole).fetchall()
        assert run(empty, "migrate") == APPLIED
        assert tables(empty) == TABLES
        assert connection.execute(whole).fetchall() == before
        for name in reversed(NAMES):
            assert rollback(empty) == (0, f"took back {name}\n", "")
        assert tables(empty) == ["users"]
        assert connection.execute(whole).fetchall() == before
        assert run(empty, "migrate") == APPLIED


@pytest.mark.parametrize(
    "users",
    [
        "table users (id integer primary key)",
        "table users (id text primary key)",
        "table users (id uuid)",
        "table users (id uuid not null unique)",
        "table users (user_id uuid primary key)",
        "table users (id uuid, site uuid, primary key (id, site))",
        "table users (id uuid, other uuid primary key)",
        "view users as select gen_random_uuid() as id",
    ],
)
def test_a_users_table_with_another_primary_key_is_refused_and_nothing_is_changed(empty, users):
    execute(empty, f"create {users}")
    before = tables(empty)
    assert run(empty, "migrate") == (1, "", PRIMARY_KEY)
    assert (tables(empty), applied(empty)) == (before, [])


def wait_until_blocked(connection: psycopg.Connection) -> int:
    """Wait for the fact that one session of this database waits for a lock; its process id."""
    query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    deadline = time.monotonic() + 20
    while not (row := connection.execute(query).fetchone()):
        assert time.monotonic() < deadline, "nobody waits for a lock"
    return int(row[0])


def wait_until_gone(connection: psycopg.Connection, pid: int) -> None:
    deadline = time.monotonic() + 20
    while connection.execute("select from pg_stat_activity where pid = %s", [pid]).fetchone():
        assert time.monotonic() < deadline, "the killed client's session does not end"


def test_after_a_run_that_was_killed_the_next_names_migrate_unlock_which_helps(migrated):
    for _ in PROGRESS:
        assert rollback(migrated)[0] == 0
    with connected(migrated) as connection:
        # The fourth migration refers to users, and waits for whoever has that table.
        with connection.transaction():
            connection.execute("lock table users in access exclusive mode")
            killed = spawn(migrated, "migrate")
            with connected(migrated) as other:
                session = wait_until_blocked(other)
                killed.send_signal(signal.SIGKILL)
                assert ended(killed) == (-signal.SIGKILL, "", "")
        wait_until_gone(connection, session)
    held = (
        f"Error: process {killed.pid} (of this or another machine) has held the migrations' lock for 1 s; "
        "if it was killed: make migrate-unlock\n"
    )
    for command in ("migrate", "rollback"):
        assert run(migrated, command, "--wait", "1", CONFIRM="yes") == (1, "", held)
    assert applied(migrated) == NAMES[:3]
    assert run(migrated, "migrate-unlock") == (0, "the migrations' lock is removed\n", "")
    assert run(migrated, "migrate", "--wait", "1") == (0, "".join(f"applied {name}\n" for name in PROGRESS), "")
    assert tables(migrated) == TABLES


@pytest.mark.parametrize("name", NAMES)
def test_a_migration_that_was_killed_before_it_was_recorded_is_repeated(migrated, name):
    before = schema(migrated)
    execute(migrated, f"delete from _yoyo_migration where migration_id = '{name}'")
    assert run(migrated, "migrate") == (0, f"applied {name}\n", "")
    assert (schema(migrated), applied(migrated)) == (before, NAMES)


def test_a_rollback_that_was_killed_before_it_was_recorded_is_repeated(migrated):
    for name in reversed(NAMES):
        execute(migrated, "create table saved as select * from _yoyo_migration")
        assert rollback(migrated)[0] == 0
        execute(migrated, "truncate _yoyo_migration; insert into _yoyo_migration table saved; drop table saved")
        assert rollback(migrated) == (0, f"took back {name}\n", "")
    assert tables(migrated) == []


def test_a_migration_that_waits_for_a_table_gives_up_after_its_lock_timeout(migrated):
    for _ in PROGRESS:
        assert rollback(migrated)[0] == 0
    before = schema(migrated)
    with connected(migrated) as connection, connection.transaction():
        connection.execute("lock table users")
        waiting = spawn(migrated, "migrate")
        started = time.monotonic()
        assert ended(waiting) == (1, "", LOCKED)
        assert 5 <= time.monotonic() - started < 15
    assert schema(migrated) == before
    assert run(migrated, "migrate") == (0, "".join(f"applied {name}\n" for name in PROGRESS), "")


def test_a_role_that_may_not_create_or_write_is_told_so_at_once(empty, postgres):
    with connected(postgres.url()) as connection:
        if not connection.execute("select from pg_roles where rolname = 'weak'").fetchone():
            connection.execute("create role weak login")
    weak = empty.replace("postgres@", "weak@")
    for command in ("migrate", "rollback", "migrate-unlock"):
        assert run(weak, command) == (1, "", "Error: permission denied for schema public\n")
    assert run(empty, "migrate") == APPLIED
    for command in ("migrate", "rollback", "migrate-unlock"):
        assert run(weak, command) == (1, "", "Error: permission denied for table yoyo_lock\n")
    read_only = f"{empty}&options=-c%20default_transaction_read_only%3Don"
    assert run(read_only, "migrate") == (1, "", "Error: cannot execute INSERT in a read-only transaction\n")


@pytest.mark.parametrize("password", ["sesame", """p%&+ =;#/@:?"'\\é"""])
@pytest.mark.parametrize("dbname", ["a-b", """od d%&+=;#/@:?"'\\é"""])
def test_a_database_url_may_hold_any_name_and_password_percent_encoded(postgres, password, dbname):
    with connected(postgres.url()) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(dbname)))
        try:
            url = postgres.url(quote(dbname, safe="")).replace("postgres@", f"postgres:{quote(password, safe='')}@")
            for form in (url, url.replace("postgresql://", "postgres://")):
                assert run(form, "migrate")[0] == 0
            assert rollback(url) == (0, f"took back {NAMES[-1]}\n", "")
            assert run(f"{url}&application_name=a%20b%26c", "migrate") == (0, f"applied {NAMES[-1]}\n", "")
            assert run(url, "migrate-unlock")[0] == 0
            assert run(url, "migration-status")[1].count(" applied ") == len(NAMES)
        finally:
            connection.execute(sql.SQL("drop database {}").format(sql.Identifier(dbname)))


def test_options_of_the_database_url_hold_beside_the_migrations_own(empty):
    execute(empty, "create schema app")
    assert run(f"{empty}&options=-c%20search_path%3Dapp", "migrate") == APPLIED
    assert tables(empty) == []
    with connected(f"{empty}&options=-csearch_path%3Dapp") as connection:
        assert connection.execute("select to_regclass('progress')::text").fetchone() == ("progress",)
    assert run(f"{empty}&options=-csearch_path%3Dapp", "migrate") == NOTHING


def test_without_a_name_in_the_url_the_database_is_pgdatabases(empty):
    name = re.search(r"test_\d+", empty)
    assert name
    url = empty.replace(f"/{name[0]}?", "/?")
    assert run(url, "migrate", PGDATABASE=name[0]) == APPLIED
    assert run(url, "migration-status", PGDATABASE=name[0])[1].count(" applied ") == len(NAMES)


def test_a_run_is_logged_by_its_user_id_where_the_environment_names_no_user(empty):
    assert run(empty, "migrate") == APPLIED
    with connected(empty) as connection:
        assert connection.execute("select distinct username from _yoyo_log").fetchall() == [(str(os.getuid()),)]
