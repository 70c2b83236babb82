"""The files of sql/: each prepares, has a header that says what the server says of it, and runs in psql as it is."""

import csv
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import ExecStatus
from psycopg.rows import dict_row

from app import database
from app.database import STATEMENTS
from app.demo.postgres import bindir
from app.settings import from_environ
from tests.world import LEARNER, add_module, add_user, bearer, complete, require, uuid4

# session.sql runs on a table of the site's: tests/test_cookies.py has one.
NAMES = sorted(set(STATEMENTS) - {"session"})
# A value for every parameter that a statement has.
VALUES = {
    "user_id": LEARNER,
    "lesson_id": uuid4(0x12),
    "module_id": uuid4(1),
    "completed_at": "now",
    "expires_at": "2030-01-01T00:00:00Z",
    "email": "learner@example.org",
    "name": "A learner",
    "key": "a key",
    "amount": "10",
    "window": "60",
    "customer_id": "cus_1",
    "stripe_subscription_id": "sub_1",
    "claimed_user_id": LEARNER,
    "status": "active",
    "current_period_end": "1924992000",
    "event_id": "evt_1",
    "event_type": "updated",
    "event_created": "1795478400",
    "object": "{}",
    "previous_attributes": "{}",
    "grace": "3600",
    "catalog": '{"modules": [], "lessons": [], "prerequisites": []}',
}


def path(name: str) -> Path:
    return database.SQL / f"{name}.sql"


def values(name: str) -> list[str]:
    return [VALUES[parameter] for parameter in STATEMENTS[name].parameters]


def header(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The (name, type) pairs that a file's header lists under Parameters and under Returns."""
    comment = re.match(r"(--.*\n)+", path(name).read_text())
    assert comment, "no header"
    purpose, parameters, returns = re.split(r"-- (?:Parameters|Returns):", comment[0])
    assert len(purpose) > 20

    def pairs(text: str) -> list[tuple[str, str]]:
        found = re.findall(r"^--   (\w+)  +(\S+(?: \S+)*?)(?:  .*)?$", text, re.M)
        return [(column, kind) for column, kind in found]

    return pairs(parameters), pairs(returns)


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    add_user(db)
    add_module(db, 1, 0x11, 0x12, 0x13)
    add_module(db, 2, 0x21)
    require(db, 0x13, 0x12)
    complete(db, 0x11, 0x21)
    return db


@pytest.mark.parametrize("name", NAMES)
def test_a_file_prepares_and_its_header_is_what_the_server_says_of_it(world, name):
    def described(oids: list[int]) -> list[str]:
        kind = "select format_type(%s::oid, null)"
        return [world.execute(kind, [oid]).fetchone()[0] for oid in oids]

    pgconn = world.pgconn
    prepared = pgconn.prepare(b"described", STATEMENTS[name].query)
    assert prepared.status == ExecStatus.COMMAND_OK, prepared.get_error_message()
    description = pgconn.describe_prepared(b"described")
    world.execute("deallocate described")
    names = {"timestamp with time zone": "timestamptz"}
    parameters = described([description.param_type(i) for i in range(description.nparams)])
    columns = described([description.ftype(i) for i in range(description.nfields)])
    fields = [description.fname(i).decode() for i in range(description.nfields)]
    assert header(name) == (
        list(zip(STATEMENTS[name].parameters, [names.get(kind, kind) for kind in parameters], strict=True)),
        list(zip(fields, columns, strict=True)),
    )


def psql(url: str, name: str) -> list[list[str]]:
    """The rows that psql prints for a file, taken back afterwards."""
    variables = [f"--set={parameter}={VALUES[parameter]}" for parameter in STATEMENTS[name].parameters]
    command = [str(bindir() / "psql"), "-X", "-q", "--csv", "-t", "--set=ON_ERROR_STOP=1", *variables, url]
    command += ["-c", "begin", "-f", str(path(name)), "-c", "rollback"]
    return list(csv.reader(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()))


@pytest.mark.parametrize("name", NAMES)
def test_psql_gets_the_rows_that_the_service_gets(world, database_url, name):
    with (
        psycopg.connect(database_url, cursor_factory=psycopg.RawCursor) as connection,
        connection.transaction(force_rollback=True),
    ):
        result = connection.execute(STATEMENTS[name].query, values(name)).pgresult
    assert result is not None
    rows = [[(result.get_value(r, c) or b"").decode() for c in range(result.nfields)] for r in range(result.ntuples)]
    assert psql(database_url, name) == rows
    if name == "summary":
        assert rows == [["full", '{"percent" : 66, "completedCount" : 2, "totalCount" : 3}']]


def test_a_file_that_does_not_prepare_stops_the_start_in_one_line(environ, monkeypatch, tmp_path):
    broken = tmp_path / "broken.sql"
    broken.write_text("-- A comment.\nselect nonsense\nfrom lessons;\n")
    monkeypatch.setitem(STATEMENTS, "broken", database.load(broken))
    with pytest.raises(database.NotReadyError) as error:
        database.check(from_environ(environ))
    assert re.fullmatch(r'sql/broken\.sql does not prepare: .*column "nonsense" does not exist.*', str(error.value))
    assert "LINE 2" in str(error.value)


def test_the_server_sees_which_file_a_statement_is(make_api, world):
    api = make_api()
    since = world.execute("select clock_timestamp()").fetchone()
    assert since is not None
    assert api.get("/api/progress/summary", headers=bearer()).status_code == 200
    query = "select count(*) from pg_stat_activity where query_start >= %s and query like %s"
    assert world.execute(query, [since[0], "/* summary.sql */ -- How far a learner is%"]).fetchone() == (1,)


def test_the_loader_numbers_variables_as_they_first_appear_and_leaves_the_rest(tmp_path):
    file = tmp_path / "example.sql"
    file.write_text("select :'b'::uuid, :'a'::text, '%', x::text, ':''c''', :'b'::uuid;\n")
    statement = database.load(file)
    assert statement.query == b"/* example.sql */ select $1::uuid, $2::text, '%', x::text, ':''c''', $1::uuid;\n"
    assert statement.parameters == ("b", "a")


@pytest.mark.parametrize("name", [name for name in NAMES if "expires_at > now()" in path(name).read_text()])
def test_access_is_over_at_the_very_moment_that_its_row_names(world, name):
    with world.transaction(force_rollback=True):  # in which now() stands still
        world.execute("update subscriptions set current_period_end = now()")
        world.execute("insert into enrollments (user_id, expires_at) values (%s, now())", [LEARNER])
        row = psycopg.RawCursor(world, row_factory=dict_row).execute(STATEMENTS[name].query, values(name)).fetchone()
    assert row is not None
    if name == "lesson":
        assert row["answer"]["overall"] == {"percent": 0, "completedCount": 0, "totalCount": 0}
    else:
        assert row["access"] is None


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_documented_for_dbas(name):
    assert f"`{name}.sql`" in (database.SQL / "README.md").read_text()
