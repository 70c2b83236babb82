"""The migrations: any number of runs at once, up and down, beside a site's own users table, and after a kill."""

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import cast
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from app.database.readiness import known_migrations
from app.demo.postgres import bindir
from app.formats import UUID4
from app.tasks import migrations
from tests.conftest import ROOT, as_service
from tests.test_cli import Answer, ended, run, spawn

NAMES = known_migrations()
RELEASED = ["0001_users", "0002_catalog", "0003_access", "0004_progress", "0005_rate_limits", "0006_stripe"]
# The migrations from 0004_progress on. 0004_progress is the last one whose table refers to users.
PROGRESS = NAMES[3:]
FOLDER = ROOT / "migrations"
ROLLBACKS = sorted(FOLDER.glob("*.rollback.sql"))
TEXTS = {name: (FOLDER / f"{name}.sql").read_text() for name in NAMES}


def created(name: str, what: str) -> list[str]:
    """Return the names of the tables, views or indexes (`what`) that a migration is the first to create, in order."""
    creates = rf"create (?:or replace |unlogged |unique )?{what} (?:if not exists )?(\w+)"
    earlier = {x for other in NAMES[: NAMES.index(name)] for x in re.findall(creates, TEXTS[other])}
    return [x for x in re.findall(creates, TEXTS[name]) if x not in earlier]


TABLES = sorted(table for name in NAMES for table in created(name, "table"))
# All tables but users. That table may be the site's own.
OURS = [table for table in TABLES if table != "users"]
VIEWS = sorted(view for name in NAMES for view in created(name, "view"))
APPLIED = (0, "".join(f"applied {name}\n" for name in NAMES), "")
NOTHING = (0, "nothing to do: every migration is applied\n", "")
LOCKED = "Error: someone else holds a lock on a table; try again\n"
PRIMARY_KEY = (
    'Error: the users table that is already here must have "id uuid" as its primary key. '
    "Give it one, or leave its schema out of the search_path: the service then creates a users table in a schema of its"
    ' own, for the site to fill (docs/operating.md, "Learners").\n'
)
TAKEN = (
    "Error: schema public already has relations that this service did not create: {}. "
    'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.\n'
)
OWN_SCHEMA = "&options=-csearch_path%3Dprogress,public"


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        yield connection


def execute(url: str, query: str) -> None:
    with connected(url) as connection:
        connection.execute(query)


def schema(url: str, *options: str) -> str:
    """Return the whole schema as pg_dump writes it, without pg_dump's random \\restrict keys."""
    command = [str(bindir() / "pg_dump"), "--schema-only", "--no-acl", *options, url]
    dump = subprocess.run(command, check=True, capture_output=True, text=True)
    return re.sub(r"^\\(un)?restrict .*\n", "", dump.stdout, flags=re.M)


def psql(url: str, files: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run files one after the other in one session of psql, up to the first error."""
    command = [str(bindir() / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", url]
    command += [f"--file={path}" for path in files]
    return subprocess.run(command, capture_output=True, text=True)


def tables(url: str, schema: str = "public") -> list[str]:
    """Return the tables of a schema, without yoyo's own."""
    with connected(url) as connection:
        rows = connection.execute(
            "select tablename from pg_tables where schemaname = %s and tablename !~ 'yoyo' order by 1", [schema]
        ).fetchall()
    return [name for (name,) in rows]


def relations(url: str) -> list[tuple[str, str]]:
    """Return the name and the kind of every relation of the schema public, without yoyo's own."""
    with connected(url) as connection:
        return connection.execute(
            "select relname, relkind from pg_class where relnamespace = 'public'::regnamespace and relname !~ 'yoyo'"
            " order by 1"
        ).fetchall()


def applied(url: str) -> list[str]:
    with connected(url) as connection:
        return [name for (name,) in connection.execute("select migration_id from _yoyo_migration order by 1")]


def rollback(url: str, **variables: str) -> Answer:
    return run(url, "rollback", CONFIRM="yes", **variables)


def apply_next(url: str) -> str:
    """Apply only the first of the pending migrations, as a run does that is killed then. Return its name."""
    with closing(cast("Generator[str]", migrations.migrate(url, wait=60))) as pending:
        return next(pending)


@pytest.fixture
def empty(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def migrated(migrated_database: Callable[[], str]) -> str:
    return migrated_database()


@pytest.fixture(scope="module")
def database_at(new_database: Callable[..., str], migrated_database: Callable[[], str]) -> Callable[[str], str]:
    """Return a function that makes a database with all migrations up to a given one. Each database is a copy."""
    made: dict[str, str] = {}

    def name_of(newest: str) -> str:
        if newest not in made:
            later = NAMES.index(newest) + 1
            url = new_database(name_of(NAMES[later])) if later < len(NAMES) else migrated_database()
            if later < len(NAMES):
                assert rollback(url) == (0, f"took back {NAMES[later]}\n", "")
            made[newest] = str(conninfo_to_dict(url)["dbname"])
        return made[newest]

    return lambda newest: new_database(name_of(newest))


@pytest.fixture(scope="module")
def schema_at(database_at: Callable[[str], str]) -> Callable[[int], str]:
    """Return a function that returns the schema with the first `count` migrations applied. It is dumped once."""

    @cache
    def schema_at(count: int) -> str:
        if count:
            return schema(database_at(NAMES[count - 1]))
        url = database_at(NAMES[0])
        assert rollback(url) == (0, f"took back {NAMES[0]}\n", "")
        return schema(url)

    return schema_at


def test_the_migrations_are_numbered_and_each_has_a_rollback():
    assert NAMES[: len(RELEASED)] == RELEASED
    assert [int(name[:4]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    assert [path.name for path in ROLLBACKS] == [f"{name}.rollback.sql" for name in NAMES]


def test_a_database_of_any_encoding_takes_the_migrations():
    for path in (*FOLDER.glob("*.sql"), ROOT / "deploy" / "grants.sql", *(ROOT / "sql").rglob("*.sql")):
        assert path.read_text().isascii(), path


def test_three_runs_at_once_on_a_fresh_database_leave_one_clean_result(empty, database_url):
    runs = [spawn(empty, "migrate") for _ in range(3)]
    assert sorted(ended(process) for process in runs) == sorted([APPLIED, NOTHING, NOTHING])
    assert schema(empty) == schema(database_url)
    assert applied(empty) == NAMES
    with connected(empty) as connection:
        assert connection.execute("select from yoyo_lock").rowcount == 0


def test_a_second_run_changes_nothing(migrated, schema_at):
    assert run(migrated, "migrate") == NOTHING
    assert (schema(migrated), applied(migrated)) == (schema_at(len(NAMES)), NAMES)


def test_each_migration_goes_down_and_up_again_to_an_identical_schema(migrated, schema_at):
    # Each was dumped in a database of its own, after rollbacks alone.
    schemas = [schema_at(count) for count in range(len(NAMES), -1, -1)]
    for name, up, down in zip(reversed(NAMES), schemas, schemas[1:], strict=False):
        took_back = (0, f"took back {name}\n", "")
        assert rollback(migrated) == took_back
        assert apply_next(migrated) == name
        assert schema(migrated) == up
        assert rollback(migrated) == took_back
        assert schema(migrated) == down
    assert tables(migrated) == []
    same = [name for name, one, other in zip(reversed(NAMES), schemas, schemas[1:], strict=False) if one == other]
    assert same == ["0007_marks"]  # its rollback leaves the comments
    assert rollback(migrated) == (0, "nothing to do: no migration is applied\n", "")
    assert run(migrated, "migrate") == APPLIED
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
    if re.search(r"\b(drop table|drop column|delete|truncate)\b", re.sub(r"--.*", "", text), re.IGNORECASE):
        assert re.match(r"-- drops data: \S.*\n", text)


LOST = {
    path.name.removesuffix(".rollback.sql"): lost[1]
    for path in ROLLBACKS
    if (lost := re.match(r"-- drops data: (.+)", path.read_text()))
}


def test_a_rollback_that_drops_data_drops_nothing_unless_it_is_confirmed(migrated, schema_at):
    assert {"0001_users", "0002_catalog", "0003_access", "0004_progress"} < set(LOST)
    for name in reversed(NAMES):
        if name not in LOST:
            assert run(migrated, "rollback") == (0, f"took back {name}\n", "")
            continue
        count = NAMES.index(name) + 1
        refused = f"Error: taking back {name} drops {LOST[name]}; if that is meant: make rollback CONFIRM=yes\n"
        # The first migration is taken back last. It gets every wrong answer to the question, the others only one.
        for confirm in ("", "no", "YES", "1") if name == NAMES[0] else ("no",):
            assert run(migrated, "rollback", CONFIRM=confirm) == (1, "", refused)
        assert (schema(migrated), applied(migrated)) == (schema_at(count), NAMES[:count])
        assert rollback(migrated)[0] == 0


def test_each_file_runs_in_psql_once_and_again(empty):
    up = [FOLDER / f"{name}.sql" for name in NAMES]
    for files, result in [(up, TABLES), (ROLLBACKS[::-1], [])]:
        ran = psql(empty, files * 2)
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
    """Wait until a session of this database waits for a lock. Return its process id."""
    query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    deadline = time.monotonic() + 60
    while not (row := connection.execute(query).fetchone()):
        assert time.monotonic() < deadline, "nobody waits for a lock"
    return int(row[0])


def wait_until_gone(connection: psycopg.Connection, pid: int) -> None:
    deadline = time.monotonic() + 60
    while connection.execute("select from pg_stat_activity where pid = %s", [pid]).fetchone():
        assert time.monotonic() < deadline, "the killed client's session does not end"


def test_after_a_run_that_was_killed_the_next_names_migrate_unlock_which_helps(database_at):
    migrated = database_at(NAMES[2])
    with connected(migrated) as connection:
        # The fourth migration refers to users, so it waits for the transaction that has locked that table.
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
def test_a_migration_that_was_killed_before_it_was_recorded_is_repeated(migrated, schema_at, name):
    execute(migrated, f"delete from _yoyo_migration where migration_id = '{name}'")
    assert run(migrated, "migrate") == (0, f"applied {name}\n", "")
    assert (schema(migrated), applied(migrated)) == (schema_at(len(NAMES)), NAMES)


def test_a_rollback_that_was_killed_before_it_was_recorded_is_repeated(migrated):
    with connected(migrated) as connection:
        for name in reversed(NAMES):
            connection.execute("create temporary table saved as select * from _yoyo_migration")
            assert rollback(migrated)[0] == 0
            connection.execute("truncate _yoyo_migration; insert into _yoyo_migration table saved; drop table saved")
            assert rollback(migrated) == (0, f"took back {name}\n", "")
    assert tables(migrated) == []


def test_a_migration_that_waits_for_a_table_gives_up_after_its_lock_timeout(database_at):
    migrated = database_at(NAMES[2])
    before = schema(migrated)
    with connected(migrated) as connection, connection.transaction():
        connection.execute("lock table users")
        waiting = spawn(migrated, "migrate")
        started = time.monotonic()
        assert ended(waiting) == (1, "", LOCKED)
        assert time.monotonic() - started >= 5
    assert schema(migrated) == before
    assert run(migrated, "migrate") == (0, "".join(f"applied {name}\n" for name in PROGRESS), "")


def test_a_role_that_may_not_create_or_write_is_told_so_at_once(empty, migrated, postgres):
    with connected(postgres.url()) as connection:
        if not connection.execute("select from pg_roles where rolname = 'weak'").rowcount:
            connection.execute("create role weak login")
    for url, what in ((empty, "schema public"), (migrated, "table yoyo_lock")):
        for command in ("migrate", "rollback", "migrate-unlock"):
            denied = (1, "", f"Error: permission denied for {what}\n")
            assert run(url.replace("postgres@", "weak@"), command) == denied
    read_only = f"{migrated}&options=-c%20default_transaction_read_only%3Don"
    code, out, err = run(read_only, "migrate")
    assert (code, out, err.endswith(" session is read-only\n"), len(err.splitlines())) == (1, "", True, 1)
    any_server = f"{read_only}&target_session_attrs=any"
    assert run(any_server, "migrate") == (1, "", "Error: cannot execute INSERT in a read-only transaction\n")


@pytest.mark.parametrize("password", ["sesame", """p%&+ =;#/@:?"'\\é"""])
@pytest.mark.parametrize("dbname", ["a-b", """od d%&+=;#/@:?"'\\é"""])
def test_a_database_url_may_hold_any_name_and_password_percent_encoded(postgres, migrated, password, dbname):
    name = conninfo_to_dict(migrated)["dbname"]
    with connected(postgres.url()) as connection:
        connection.execute(sql.SQL(f"alter database {name} rename to {{}}").format(sql.Identifier(dbname)))
        try:
            url = postgres.url(quote(dbname, safe="")).replace("postgres@", f"postgres:{quote(password, safe='')}@")
            for form in (url, url.replace("postgresql://", "postgres://")):
                assert run(form, "migrate") == NOTHING
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


def test_without_a_name_in_the_url_the_database_is_pgdatabases(migrated):
    name = str(conninfo_to_dict(migrated)["dbname"])
    url = migrated.replace(f"/{name}?", "/?")
    assert run(url, "migrate", PGDATABASE=name) == NOTHING
    assert run(url, "migration-status", PGDATABASE=name)[1].count(" applied ") == len(NAMES)


def test_a_run_is_logged_by_its_user_id_where_the_environment_names_no_user(migrated):
    with connected(migrated) as connection:
        connection.execute("delete from _yoyo_log")
        assert rollback(migrated)[0] == run(migrated, "migrate")[0] == 0
        assert connection.execute("select distinct username from _yoyo_log").fetchall() == [(str(os.getuid()),)]


GUARD = re.compile(r"do \$\$\ndeclare\n    taken text;.*?^\$\$;\n", re.S | re.M)
NAME_LIST = re.compile(r"relname in \((.*?)\)", re.S)


def test_each_migration_looks_for_relations_of_its_names_and_the_first_for_those_of_all():
    guarded = {name: GUARD.search(text) for name, text in TEXTS.items()}
    names = {name: {x for what in ("table", "view", "index") for x in created(name, what)} for name in NAMES}
    everything = set().union(*names.values()) - {"users"}
    for name in NAMES:
        guard = guarded[name]
        if not guard:
            assert not names[name], (
                f"{name} creates relations, and begins without the block that 0002_catalog begins with"
            )
            continue
        listed = NAME_LIST.search(guard[0])
        assert listed
        wanted = everything if name == NAMES[0] else names[name]
        assert set(re.findall(r"\w+", listed[1])) == wanted, name
        for what in ("table", "view"):
            for ours in set(created(name, what)) - {"users"}:
                comment = rf"comment on {what} {ours} is '.*\(created by progress-tracking\)';"
                assert re.search(comment, TEXTS[name]), ours
    copies = {NAME_LIST.sub("", guard[0]) for guard in guarded.values() if guard}
    assert len(copies) == 1


def test_a_relation_of_the_sites_with_one_of_our_names_stops_a_fresh_run_before_anything_is_created(empty):
    cases = [(name, f"create table {name} (id text primary key)") for name in OURS + VIEWS]
    cases += [
        ("lessons", "create view lessons as select 1 as id"),
        ("progress", "create sequence progress"),
        ("enrollments", "create table enrollments (id uuid primary key, user_id uuid, course_id uuid)"),
        ("lessons_module_id_idx", "create table old (id text); create index lessons_module_id_idx on old (id)"),
        # This table has the columns of the service's table, but the service did not create it.
        ("enrollments", "create table enrollments (user_id uuid primary key, expires_at timestamptz)"),
    ]
    for taken, statement in cases:
        execute(empty, f"drop schema public cascade; create schema public; {statement}")
        before = relations(empty)
        assert run(empty, "migrate") == (1, "", TAKEN.format(taken))
        assert (relations(empty), applied(empty)) == (before, [])


def test_a_relation_of_the_sites_stops_each_migration_that_would_create_one_of_its_name(migrated):
    for name in reversed(NAMES[1:]):
        assert rollback(migrated)[0] == 0
        for ours in created(name, "table") + created(name, "view"):
            execute(migrated, f"create table {ours} (id text)")
            assert run(migrated, "migrate") == (1, "", TAKEN.format(ours))
            assert applied(migrated) == NAMES[: NAMES.index(name)]
            execute(migrated, f"drop table {ours}")


def test_a_rollback_drops_only_what_our_comment_says_is_ours(migrated, schema_at):
    for name in reversed(NAMES[1:]):
        count = NAMES.index(name) + 1
        kinds = {ours: what for what in ("table", "view") for ours in created(name, what)}
        for ours, what in kinds.items():
            # An earlier version wrote no comments. It created only tables, so a view without a comment is not its view.
            earlier = "an earlier version did, make migrate adds the comment; if it was lost"
            lost = earlier if what == "table" else "the comment was lost"
            with connected(migrated) as connection:
                comment = connection.execute("select obj_description(%s::regclass)", [ours]).fetchone()
                assert comment
                for none in ("null", "'learners'"):
                    connection.execute(f"comment on {what} {ours} is {none}")
                    code, out, err = rollback(migrated)
                    assert (code, out) == (1, "")
                    assert err == (
                        f"Error: nothing was dropped: no comment says that this service created {ours}. "
                        f"If {lost}: comment on {what} {ours} is 'created by progress-tracking'. "
                        f'If the {what} is the site\'s own: docs/operating.md, "A schema of its own".\n'
                    )
                connection.execute(sql.SQL(f"comment on {what} {ours} is {{}}").format(*comment))
        if kinds:
            assert (schema(migrated), applied(migrated)) == (schema_at(count), NAMES[:count])
        assert rollback(migrated)[0] == 0


@pytest.fixture
def earlier(database_at: Callable[[str], str]) -> str:
    """Return a database as an earlier version left it: only the table users has a comment."""
    url = database_at(RELEASED[-1])
    execute(url, "; ".join(f"comment on table {table} is null" for table in set(tables(url)) - {"users"}))
    return url


def test_a_database_of_the_version_before_gets_the_comments_and_then_is_as_a_fresh_one(earlier, database_url):
    assert run(earlier, "migrate")[0] == 0
    assert schema(earlier) == schema(database_url)
    for name in reversed(NAMES):
        assert rollback(earlier) == (0, f"took back {name}\n", "")
    assert tables(earlier) == []


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("enrollments", "drop table {0}; create table {0} (id uuid primary key, user_id uuid, course_id uuid)"),
        ("subscriptions", "drop table {0}; create table {0} (id text primary key, plan text)"),
        ("rate_limits", "drop table {0}"),
        ("rate_limits", "alter table {0} rename to r; create view {0} as select * from r"),
        ("rate_limits", "alter table {0} rename to r; create table {0} (like r)"),
        ("rate_limits", "alter table {0} add column note text"),
        ("stripe_customers", "alter table {0} alter column claimed_user_id type text"),
        (
            "lesson_prerequisites",
            "alter table {0} drop constraint {0}_pkey; alter table {0} add primary key (lesson_id)",
        ),
    ],
)
def test_a_table_that_is_not_ours_gets_no_comment_and_stops_the_run(earlier, table, change):
    execute(earlier, change.format(table))
    before = schema(earlier)
    refused = (
        f"Error: schema public has no such table as this service creates: {table}. Columns or primary key differ, or"
        " there is none. If a table is the site's own, move the service into a schema of its own "
        '(docs/operating.md, "A schema of its own"). If it is the service\'s with columns of yours: '
        "comment on table NAME is 'created by progress-tracking'.\n"
    )
    assert run(earlier, "migrate") == (1, "", refused)
    assert (schema(earlier), applied(earlier)) == (before, RELEASED)


def test_a_table_of_ours_with_columns_of_the_operators_is_ours_once_its_comment_says_so(earlier):
    execute(
        earlier, "alter table lessons add column slug text; comment on table lessons is 'created by progress-tracking'"
    )
    assert run(earlier, "migrate")[0] == 0
    assert applied(earlier) == NAMES


# The tables of a site that has a table of each of our names, and uses yoyo itself.
SITE = "".join(
    f"create table {name} (id serial primary key); insert into {name} default values; " for name in OURS + VIEWS
)
SITE += """
    create table users (id uuid primary key, email text);
    insert into users values ('00000000-0000-4000-8000-000000000001', 'ada@example.org');
    create table _yoyo_migration (
        migration_hash varchar(64) primary key, migration_id varchar(255), applied_at_utc timestamp
    );
    insert into _yoyo_migration values (encode(sha256('0001_users'), 'hex'), '0001_users', now());
    create table _yoyo_version (version integer primary key, installed_at_utc timestamp);
    insert into _yoyo_version values (2, now());
    create table _yoyo_log (id varchar(36) primary key);
    create table yoyo_lock (locked integer default 1 primary key, ctime timestamp, pid integer not null);
    insert into yoyo_lock (pid) values (4711);
"""


def contents(url: str, schema: str) -> str:
    """Return everything in a schema, as pg_dump writes it."""
    command = [str(bindir() / "pg_dump"), f"--schema={schema}", "--inserts", "--no-acl", url]
    dump = subprocess.run(command, check=True, capture_output=True, text=True)
    return re.sub(r"^\\(un)?restrict .*\n", "", dump.stdout, flags=re.M)


def test_a_schema_of_our_own_leaves_alone_a_site_that_has_tables_of_the_same_names(empty):
    execute(empty, SITE)
    before = contents(empty, "public")
    url = empty + OWN_SCHEMA
    pending = (0, "".join(f"{name:24} pending\n" for name in NAMES), "")
    no_schema = (1, "", "Error: search_path: there is no schema progress yet; make migrate creates it\n")
    assert run(url, "migration-status") == pending
    assert rollback(url) == run(url, "migrate-unlock") == no_schema
    assert run(url, "migrate", "--wait", "1") == APPLIED
    assert tables(url, "progress") == OURS
    assert run(url, "migration-status")[1].count(" applied ") == len(NAMES)
    assert run(url, "migrate-unlock") == (0, "the migrations' lock is removed\n", "")
    for name in reversed(NAMES):
        assert rollback(url) == (0, f"took back {name}\n", "")
    assert run(url, "migration-status") == pending
    assert tables(url, "progress") == []
    assert contents(empty, "public") == before
    assert run(url, "migrate") == APPLIED
    assert run(url, "migrate") == NOTHING
    assert contents(empty, "public") == before
    with connected(empty) as connection:
        read = connection.execute(
            "select distinct view_name, table_schema from information_schema.view_table_usage"
            " where view_schema = 'progress'"
        ).fetchall()
    # learner_contacts reads nothing where users is the site's own.
    assert sorted(read) == [(view, "progress") for view in VIEWS if view != "learner_contacts"]


def test_a_schema_of_our_own_has_a_users_table_of_its_own_where_the_path_has_none(empty):
    assert run(empty + OWN_SCHEMA, "migrate") == APPLIED
    assert (tables(empty), tables(empty, "progress")) == ([], TABLES)


def test_a_users_table_with_another_primary_key_is_no_obstacle_outside_the_search_path(empty):
    execute(empty, "create table users (id serial primary key)")
    assert run(empty + OWN_SCHEMA, "migrate") == (1, "", PRIMARY_KEY)
    assert run(empty + OWN_SCHEMA.removesuffix(",public"), "migrate") == APPLIED
    assert (tables(empty), tables(empty, "progress")) == (["users"], TABLES)


def test_a_rollback_leaves_another_installation_on_the_search_path_alone(migrated):
    second = f"{migrated}&options=-csearch_path%3Dtwo"
    assert run(second, "migrate") == APPLIED
    for _ in NAMES:
        assert rollback(f"{second},public")[0] == 0
    assert (tables(migrated), tables(migrated, "two")) == (TABLES, [])
    # Run the migrations again, as after a kill before they were recorded. Now the search_path finds the names in the
    # other schema.
    assert psql(f"{second},public", ROLLBACKS).returncode == 0
    assert tables(migrated) == TABLES


def test_a_search_path_that_names_another_schema_first_does_not_start_anew_beside_the_tables_that_are_there(earlier):
    moved = (
        "Error: search_path: the tables of this service are in another schema of it already. "
        'Name that schema first, or move them (docs/operating.md, "A schema of its own")\n'
    )
    for _ in range(2):
        assert run(earlier + OWN_SCHEMA, "migrate") == (1, "", moved)
        assert tables(earlier, "progress") == []
        assert run(earlier, "migrate")[0] == 0
    execute(earlier, "create schema progress")
    assert run(earlier + OWN_SCHEMA, "migrate") == (1, "", moved)
    assert tables(earlier, "progress") == []


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("progress", "progress"),
        ("PROGRESS,public", "progress"),
        ('"My\\ ""own""",public', 'My "own"'),
        ("\\ progress\\ ,\\ public", "progress"),
        ('"$user",public', "public"),
        ("$user,public", "public"),
        ('"$user",progress,public', "public"),
    ],
)
def test_the_schema_that_the_url_names_first_is_created_but_never_one_of_the_name_user(empty, path, schema):
    url = f"{empty}&options=-csearch_path%3D{quote(path, safe='')}"
    for name in NAMES[:2]:
        assert apply_next(url) == name
    assert tables(empty, schema) == sorted(table for name in NAMES[:2] for table in created(name, "table"))
    with connected(empty) as connection:
        schemas = connection.execute(
            "select nspname from pg_namespace where nspname !~ '^(pg_|information_)'"
        ).fetchall()
    assert {name for (name,) in schemas} == {"public", schema}


def test_three_runs_at_once_create_one_schema(new_database):
    def create(url: str) -> None:
        """Do what a run does before it takes the lock of the migrations."""
        migrations._backend(url, create=True).connection.close()

    # PostgreSQL tells a session of a new schema at any moment, also while the session looks for it. So try this often.
    with ThreadPoolExecutor(6) as pool:
        for _ in range(30):
            list(pool.map(create, [new_database() + OWN_SCHEMA] * 6))
        url = new_database() + OWN_SCHEMA
        runs = list(pool.map(lambda _: list(migrations.migrate(url, wait=60)), range(3)))
    assert sorted(runs) == [[], [], NAMES]
    assert tables(url, "progress") == TABLES


def test_a_role_that_may_not_create_or_use_the_schema_is_told_so_and_nothing_is_created_elsewhere(empty, postgres):
    with connected(postgres.url()) as connection:
        if not connection.execute("select from pg_roles where rolname = 'weak'").rowcount:
            connection.execute("create role weak login")
    execute(empty, "grant all on schema public to weak")
    weak = empty.replace("postgres@", "weak@") + OWN_SCHEMA
    name = conninfo_to_dict(empty)["dbname"]
    assert run(weak, "migrate") == (1, "", f"Error: permission denied for database {name}\n")
    execute(empty, "create schema progress")
    assert run(weak, "migrate") == (1, "", "Error: permission denied for schema progress\n")
    for command in ("rollback", "migrate-unlock"):
        assert run(weak, command) == (1, "", "Error: search_path: this role may not use the schema progress\n")
    assert tables(empty) == tables(empty, "progress") == []


@pytest.mark.parametrize("constraint", ["", "; alter table users rename constraint users_email_key to one_address"])
def test_an_address_may_be_two_learners_and_a_rollback_says_so_without_naming_it(database_at, constraint):
    migrated = database_at("0007_marks")
    before = schema(migrated)
    assert "UNIQUE (email)" in before
    execute(migrated, f"select{constraint}")
    assert apply_next(migrated) == "0008_users_email"
    assert "UNIQUE (email)" not in schema(migrated)
    add = "insert into users (id, email) values (gen_random_uuid(), 'ada@example.org'), (gen_random_uuid(), null)"
    for _ in range(2):
        execute(migrated, add)
    refused = (
        "Error: learners share an e-mail address, which the version before does not allow; such addresses: 1. "
        "The service has no use for the address: update users set email = null where email in "
        "(select email from users group by email having count(*) > 1).\n"
    )
    assert rollback(migrated) == (1, "", refused)
    found = re.search("update users .*[)]", refused)
    assert found
    execute(migrated, found[0])
    assert rollback(migrated)[0] == 0
    assert schema(migrated) == before


def test_a_sites_own_users_keep_their_unique_address(empty):
    execute(empty, "create table users (id uuid primary key, email text unique)")
    assert run(empty, "migrate") == APPLIED
    assert "UNIQUE (email)" in schema(empty)


# UUIDs of each version and of each variant, and the nil and the max UUID, which have neither.
IDS = [f"01900000-0000-{version:x}000-8000-000000000000" for version in range(16)]
IDS += [f"01900000-0000-4000-{variant:x}000-000000000000" for variant in range(16)]
IDS += [str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)), "ABCDEF01-2345-4789-ABCD-EF0123456789"]


@pytest.mark.parametrize("table", ["courses", "modules", "lessons"])
def test_the_tables_take_the_ids_that_the_api_takes_and_no_others(db, table):
    module = str(uuid.uuid4())
    db.execute("insert into modules (id, title, position) values (%s, '', 1)", [module])
    insert = {
        "courses": "insert into courses (id, title, position) values (%s, '', 1)",
        "modules": "insert into modules (id, title, position) values (%s, '', 1)",
        "lessons": f"insert into lessons (id, module_id, title, position) values (%s, '{module}', '', 1)",
    }
    for text in dict.fromkeys(IDS):
        try:
            db.execute(insert[table], [text])
            taken = True
        except psycopg.errors.CheckViolation:
            taken = False
        assert taken == bool(UUID4.fullmatch(text)), text
        db.execute(f"delete from {table} where id != %s", [module])


def test_rows_whose_ids_are_not_of_version_4_are_named_and_nothing_is_changed(database_at):
    earlier = database_at("0008_users_email")
    wrong = [f"01900000-0000-7000-8000-{number:012x}" for number in range(13)]
    with connected(earlier) as connection:
        module = str(uuid.uuid4())
        for module_id in (module, wrong[0]):
            connection.execute("insert into modules (id, title, position) values (%s, '', 1)", [module_id])
        for lesson_id in (*wrong[1:], str(uuid.uuid4())):
            connection.execute(
                "insert into lessons (id, module_id, title, position) values (%s, %s, '', 1)", [lesson_id, module]
            )
        before = schema(earlier), applied(earlier)
        named = ", ".join([f"module {wrong[0]}", *(f"lesson {lesson_id}" for lesson_id in wrong[1:10])])
        refused = (
            f"Error: ids that are not UUIDs of version 4: {named} and 3 more. The API refuses them. "
            "Give each another id, for instance gen_random_uuid(), or delete the row.\n"
        )
        assert run(earlier, "migrate") == (1, "", refused)
        assert (schema(earlier), applied(earlier)) == before
        connection.execute("update lessons set id = gen_random_uuid() where id::text like '01900000%'")
        refused = refused.replace(f"{named} and 3 more", f"module {wrong[0]}")
        assert run(earlier, "migrate") == (1, "", refused)
        connection.execute("delete from modules where id = %s", [wrong[0]])
    assert run(earlier, "migrate")[0] == 0


OLD_MIRROR = """
    insert into users (id) select ('00000000-0000-4000-8000-00000000000' || n)::uuid from generate_series(1, 8) as n;
    insert into stripe_customers (customer_id, claimed_user_id, user_id, event_created)
    select 'cus_' || right(id::text, 1), id, id, now() from users;
    insert into stripe_subscriptions (
        stripe_subscription_id, customer_id, user_id, status, current_period_end, event_id, event_type, event_created,
        object, previous_attributes
    )
    select
        'sub_' || right(id::text, 1), 'cus_' || right(id::text, 1), id,
        case right(id::text, 1) when '4' then 'past_due' when '5' then 'canceled' else 'active' end,
        '2030-01-01T00:00:00Z', 'evt', 'updated', now(), '{}', '{}'
    from users;
    insert into subscriptions (user_id, stripe_subscription_id, status, current_period_end)
    select
        user_id, stripe_subscription_id, status,
        current_period_end + case right(user_id::text, 1)
            when '3' then interval '90 days' when '4' then '0' when '5' then '1 hour' else interval '2 days'
        end
    from stripe_subscriptions;
    update subscriptions set stripe_subscription_id = null where user_id::text like '%6';
    update subscriptions set current_period_end = null where user_id::text like '%7';
    update subscriptions set current_period_end = 'infinity' where user_id::text like '%8';
"""


@pytest.mark.parametrize(
    ("rows", "mirrored"),
    [
        # Two rows differ by the grace of that time. The fourth row gives no access, so it has no grace.
        ("true", {"1": True, "2": True, "3": None, "4": True, "5": None, "6": None, "7": None, "8": None}),
        # If only one row has a difference, an operator may have given that time.
        ("user_id::text ~ '[34]$'", {"3": None, "4": True}),
        ("user_id::text ~ '[78]$'", {"7": None, "8": None}),
    ],
)
def test_what_the_mirror_of_an_earlier_version_wrote_is_told_from_what_was_written_by_hand(database_at, rows, mirrored):
    migrated = database_at("0009_uuid_version_4")
    execute(migrated, f"{OLD_MIRROR}; delete from subscriptions where not ({rows})")
    assert run(migrated, "migrate")[0] == 0
    with connected(migrated) as connection:
        found = connection.execute(
            "select right(user_id::text, 1), mirrored_period_end = current_period_end from subscriptions"
        ).fetchall()
    assert dict(found) == mirrored


def test_what_the_version_before_still_writes_is_right_while_this_one_starts(migrated):
    """The earlier version does not write the new columns. What it writes counts as the customer's first session."""
    execute(
        migrated,
        """
        insert into users (id) values ('00000000-0000-4000-8000-000000000001');
        insert into stripe_customers as tied (customer_id, claimed_user_id, event_created)
        values ('cus_1', '00000000-0000-4000-8000-000000000001', now())
        on conflict (customer_id) do update set claimed_user_id = excluded.claimed_user_id;
        insert into stripe_subscriptions (
            stripe_subscription_id, customer_id, status, current_period_end, event_id, event_type, event_created,
            object, previous_attributes
        )
        values ('sub_1', 'cus_1', 'active', now(), 'evt', 'updated', now(), '{}', '{}');
        insert into subscriptions (user_id, stripe_subscription_id, status, current_period_end)
        values ('00000000-0000-4000-8000-000000000001', 'sub_1', 'active', '2030-01-01')
        """,
    )
    with connected(migrated) as connection:
        state = (
            "select checkout_session_id, rivals::text, mirrored_period_end from stripe_customers, stripe_subscriptions,"
        )
        assert connection.execute(f"{state} subscriptions").fetchall() == [(None, "[]", None)]


def test_the_version_before_goes_on_reading_until_the_rights_of_this_one_are_given(database_at):
    """Its role has the rights on the views. Since the migration, the views read tables that this role never knew."""
    url = database_at("0013_unattached")  # taken back from the newest: the rollback keeps the rights on the views
    assert run(url, "migrate")[0] == 0
    with connected(as_service(url)) as service:
        assert service.execute("select user_id, full_access, free_access from learner_access").fetchall() == []
        assert service.execute("select lesson_id, module_id, title, position from accessible_lessons").fetchall() == []


@pytest.mark.parametrize("column", ["course_id uuid", "course_id text", "course_id uuid references modules (id)"])
def test_a_column_course_id_of_the_sites_own_stops_the_migration(database_at, column):
    url = database_at("0013_unattached")
    execute(url, f"alter table modules add column {column}")
    before = schema(url)
    refused = (
        "Error: the table modules already has a column course_id that this service did not create. Rename it: alter"
        " table modules rename column course_id to another_name. To keep what it says, fill courses and the new"
        " course_id from it after this migration.\n"
    )
    assert run(url, "migrate") == (1, "", refused)
    assert schema(url) == before
    execute(url, "alter table modules rename column course_id to another_name")
    assert run(url, "migrate")[0] == 0


def test_courses_are_added_to_a_catalog_that_is_there_and_taken_away_again(database_at):
    """The completions, and who has free access, stay as they were."""
    url = database_at("0013_unattached")
    course, module, lesson, learner = (f"0000000{number}-0000-4000-8000-000000000000" for number in range(4))
    with connected(url) as connection:
        connection.execute(
            f"""
            insert into users (id) values ('{learner}');
            insert into enrollments (user_id) values ('{learner}');
            insert into modules (id, title, position) values ('{module}', '', 1);
            insert into lessons (id, module_id, title, position, published, is_free)
            values ('{lesson}', '{module}', '', 1, true, true);
            insert into progress (user_id, lesson_id, completed_at) values ('{learner}', '{lesson}', now())
            """
        )
        rows = "select user_id::text, lesson_id::text from accessible_lessons inner join progress"
        rows += " using (user_id, lesson_id)"
        assert run(url, "migrate")[0] == 0
        assert connection.execute(rows).fetchall() == [(learner, lesson)]
        assert connection.execute("select course_id from modules").fetchall() == [(None,)]
        connection.execute(
            f"""
            insert into courses (id, title, position) values ('{course}', '', 1);
            update modules set course_id = '{course}';
            delete from enrollments;
            insert into course_enrollments (user_id, course_id) values ('{learner}', '{course}')
            """
        )
        assert connection.execute(rows).fetchall() == [(learner, lesson)]
        while "0014_courses" in applied(url):
            assert rollback(url)[0] == 0
        assert connection.execute(rows).fetchall() == []
        connection.execute(f"insert into enrollments (user_id) values ('{learner}')")
        assert connection.execute(rows).fetchall() == [(learner, lesson)]
