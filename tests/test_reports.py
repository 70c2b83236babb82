"""make report: tables that fit a terminal, CSV, what it refuses, and the role that can do nothing else."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from app.database.statements import STATEMENTS
from app.demo.postgres import bindir
from app.tasks import reports
from tests.conftest import ROOT, as_service
from tests.test_cli import clean, ended, run, spawn
from tests.test_grants import all_of, psql
from tests.test_rights import RIGHTS
from tests.world import LEARNER, STRANGER, add_course, add_module, add_user, complete, require, uuid4

COURSE = uuid4(3)
ROLE = "progress_reports"


@pytest.fixture
def world(db):
    """Course 3 has modules 1 and 2, and module 4 is in none. A learner completed module 1. Another has free access."""
    add_user(db)
    add_user(db, STRANGER, access="free")
    add_module(db, 1, 0x11, 0x12, is_free=True)
    add_module(db, 2, 0x21, 0x22)
    add_module(db, 4, 0x41)
    add_course(db, 3, 1, 2)
    require(db, 0x22, 0x21)
    complete(db, 0x11, at="2026-01-01T23:59:59.999Z")
    complete(db, 0x12, at="2026-01-02T00:00:00Z")
    complete(db, 0x41, at="2026-01-03T12:00:00Z")
    db.execute("insert into module_completions values (%s, %s, '2026-01-02T00:00:00Z')", [LEARNER, uuid4(1)])
    return db


def given(name: str) -> list[str]:
    return ["--course", COURSE] if name == "learners" else []


TABLES = {
    "lessons": """\
course                module                lesson                   access  completed  median days
                      Module 4              Lesson 41                     1          1          1.5
Course 3              Module 1              Lesson 11                     2          1          0.0
Course 3              Module 1              Lesson 12                     2          1          0.0
Course 3              Module 2              Lesson 21                     1          0
Course 3              Module 2              Lesson 22                     1          0
""",
    "modules": """\
course                            module                              lessons      began   finished
                                  Module 4                                  1          1          0
Course 3                          Module 1                                  2          1          1
Course 3                          Module 2                                  2          0          0
""",
    "courses": """\
course                                                                 lessons      began   finished
Course 3                                                                     4          1          0
""",
    "learners": f"""\
user id                                 percent  completed      total  first day   last day
{LEARNER}         66          2          3  2026-01-01  2026-01-02
{STRANGER}          0          0          2
""",
    "days": """\
day         completions   learners
2026-01-01            1          1
2026-01-02            1          1
2026-01-03            1          1
""",
    # After lesson 41, which is before those of the course, and 11 and 12, which are completed.
    "stuck": """\
course                        module                        lesson                         learners
Course 3                      Module 2                      Lesson 21                             1
""",
    "completions": f"""\
day         user id                               kind    title
2026-01-02  {LEARNER}  module  Module 1
""",
}


@pytest.mark.parametrize("name", reports.NAMES)
def test_a_report_is_a_table(world, database_url, name):
    assert run(database_url, "report", name, *given(name)) == (0, TABLES[name], "")


@pytest.mark.parametrize("name", reports.NAMES)
def test_csv_has_a_column_for_each_column_of_the_statement_and_no_other_form_of_a_value(world, database_url, name):
    # The titles are those of the catalog, also where a program for tables would take one for a formula.
    titles = ['=1+1, "a"\nb', "-- 課", "@x"]
    for kind, title in zip(("courses", "modules", "lessons"), titles, strict=True):
        world.execute(f"update {kind} set title = %s", [title])
    code, out, err = run(database_url, "report", name, *given(name), "--format", "csv")
    assert (code, err) == (0, "")
    url = f"{database_url}&options=-c%20datestyle%3DSQL,DMY"
    variables = [f"--set=course_id={COURSE if name == 'learners' else ''}", "--set=since="]
    command = [str(bindir() / "psql"), "-Xq", "--csv", *variables, "-f", f"sql/reports/{name}.sql", url]
    by_psql = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = list(csv.reader(io.StringIO(out)))
    assert rows == list(csv.reader(io.StringIO(by_psql)))
    assert len(rows) > 1


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("x" * 67, "x" * 67),
        ("x" * 68, "x" * 66 + "…"),
        ("課" * 33 + "x", "課" * 33 + "x"),  # each of these characters takes two columns
        ("課" * 34, "課" * 33 + "…"),
        ("x" + "課" * 33, "x" + "課" * 33),
        ("x" + "課" * 34, "x" + "課" * 32 + "…"),
        ("e\u0301" * 67, "e\u0301" * 67),
        ("e\u0301" * 68, "e\u0301" * 66 + "…"),
        ("❤\ufe0f" * 40, "❤\ufe0f" * 33 + "…"),
        ("a\x1b[31mb\r\nc\u2028d\u202ee", "a [31mb  c de"),
        ("", ""),
    ],
)
def test_a_title_takes_one_line_and_no_more_than_its_columns(world, database_url, title, shown):
    world.execute("update courses set title = %s", [title])
    _, line, end = run(database_url, "report", "courses")[1].split("\n")
    assert (line.removesuffix("          4          1          0").rstrip(" "), end) == (shown, "")


def test_a_report_without_rows_has_its_head(db, database_url):
    assert run(database_url, "report", "days") == (0, "day         completions   learners\n", "")
    assert run(database_url, "report", "days", "--format", "csv")[1] == "day,completion_count,learner_count\n"


def test_since_names_the_first_day_in_utc_and_course_leaves_the_rest_out(world, database_url):
    def days(**variables: str) -> list[str]:
        return [line[:10] for line in run(database_url, "report", NAME="days", **variables)[1].splitlines()[1:]]

    assert days(SINCE="2026-01-02") == ["2026-01-02", "2026-01-03"]
    assert days(COURSE=COURSE) == ["2026-01-01", "2026-01-02"]
    assert days(COURSE=COURSE.upper(), SINCE="2026-01-02") == ["2026-01-02"]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "NAME is not given; the reports are lessons, modules, courses, learners, days, stuck, completions"),
        ({"NAME": "x"}, "NAME=x is no report; the reports are"),
        ({"NAME": "days", "FORMAT": "xml"}, "FORMAT=xml is none of table, csv"),
        ({"NAME": "courses", "COURSE": COURSE}, "the report courses takes no COURSE; leave it out"),
        ({"NAME": "stuck", "SINCE": "2026-01-01"}, "the report stuck takes no SINCE; leave it out"),
        ({"NAME": "learners"}, "COURSE is not given; the report learners is about one course: COURSE=<id>"),
        ({"NAME": "days", "COURSE": ""}, "COURSE is not given; say which course: COURSE=<id>"),
        ({"NAME": "days", "COURSE": "x"}, "COURSE=x is not a UUID version 4"),
        ({"NAME": "days", "COURSE": uuid4(9)}, f"there is no course {uuid4(9)}; add it with: make load-catalog"),
        *(
            ({"NAME": "days", "SINCE": since}, f"SINCE={since} is not a day, such as 2026-01-31")
            for since in ("2026-02-30", "2026-1-1", "01/02/2026", "2026-01-01T00:00:00Z", "today", "0000-01-01")
        ),
    ],
)
def test_what_a_report_cannot_be_about_is_refused_in_one_line(world, database_url, variables, told):
    code, out, err = run(database_url, "report", **variables)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"Error: {told}")


def test_make_prints_csv_with_the_line_ends_of_rfc_4180(world, database_url):
    command = ["make", "--no-print-directory", "-o", "install", "report", f"RUN={sys.executable} -m"]
    command += ["NAME=days", f"COURSE={COURSE}", "SINCE=2026-01-02", "FORMAT=csv"]
    done = subprocess.run(command, cwd=ROOT, env=clean(database_url), capture_output=True)
    assert done.stdout == b"day,completion_count,learner_count\r\n2026-01-02,1,1\r\n"
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_may_stop_reading(world, database_url):
    """`make report … | head`: the task ends, and prints no error."""
    world.execute(
        "insert into users (id) select gen_random_uuid() from generate_series(1, 3000);"
        " insert into enrollments (user_id) select id from users on conflict do nothing"
    )
    process = spawn(database_url, "report", "learners", COURSE=COURSE)
    assert process.stdout
    assert process.stdout.readline().startswith("user id")
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("name", reports.NAMES)
def test_a_report_asks_the_views_who_may_take_what(name):
    """lessons.sql alone adds up what gives access. tests/proof/test_reports.py compares it with the model."""
    text = re.sub("--.*\n", "", (ROOT / f"sql/reports/{name}.sql").read_text())
    assert not re.search(r"\b(from|join) (subscriptions|enrollments|course_enrollments|lesson_prerequisites)\b", text)
    assert ("is_free" in text) == (name == "lessons")


@pytest.fixture
def team(world, database_url) -> Iterator[str]:
    """Yield the URL of a role that deploy/grants.sql made for reports. It was the service's role before."""
    assert run(database_url, "grants", ROLE=ROLE)[0] == 0
    assert run(database_url, "grants", ROLE=ROLE, REPORTS="1") == (
        0,
        f"granted: {ROLE} can run the reports, and nothing else\n",
        "",
    )
    yield database_url.replace("//postgres@", f"//{ROLE}@")
    world.execute(f"drop owned by {ROLE}; drop role {ROLE}")


def refused(session: psycopg.Connection, name: str) -> bool:
    statement = STATEMENTS[f"reports/{name}"]
    values = [COURSE if name == "learners" else "" for _ in statement.parameters]
    try:
        psycopg.RawCursor(session).execute(statement.query, values)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_the_role_for_reports_has_each_right_that_a_report_needs_and_no_other(team, world, database_url):
    rights = world.execute(RIGHTS, {"role": ROLE}).fetchall()
    assert {right.partition(" ")[0] for right, _ in rights} == {"SELECT"}
    assert "users" not in {table for _, table in rights}
    with closing(psycopg.connect(team, autocommit=True)) as session:
        assert not any(refused(session, name) for name in reports.NAMES)
        for right, table in rights:
            world.execute(f"revoke {right} on {table} from {ROLE}")
            assert any(refused(session, name) for name in reports.NAMES), (right, table)
            world.execute(f"grant {right} on {table} to {ROLE}")
    before = all_of(world, ROLE)
    assert "default_transaction_read_only=on" in [name for kind, name, *_ in before if kind == "setting"]
    # psql gives the same rights.
    assert psql(database_url, ROLE, "-v", "reports=on") == (0, "")
    assert all_of(world, ROLE) == before


@pytest.mark.parametrize(
    "statement",
    [
        "select id from users",
        "select email from users",
        "select stripe_subscription_id from subscriptions",
        "select * from events",
        "select * from learner_tag_keys",
        "select * from stripe_payments",
        "select * from rate_limits",
        "delete from progress",
        "update progress set updated_at = now()",
        "insert into enrollments (user_id) select user_id from enrollments",
        "update module_completions set started_over_at = now()",
        "create table x (y integer)",
    ],
)
def test_the_role_for_reports_may_do_nothing_else(team, statement):
    with closing(psycopg.connect(team, autocommit=True)) as session:
        session.execute("set default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(statement)


def test_a_report_takes_longer_than_a_call_may(world, database_url):
    """The role of the service has a statement_timeout."""
    url = f"{as_service(database_url)}&options=-c%20statement_timeout%3D100"
    with closing(psycopg.connect(database_url, autocommit=True)) as other:
        other.execute("begin; lock table progress in access exclusive mode")
        process = spawn(url, "report", "days")
        while not world.execute(
            "select from pg_stat_activity where wait_event_type = 'Lock' and now() - query_start > interval '200 ms'"
        ).rowcount:
            pass
        other.execute("commit")
    assert ended(process) == (0, TABLES["days"], "")


def test_rows_that_row_level_security_hides_are_an_error_and_no_number(team, world):
    world.execute("alter table progress enable row level security")
    try:
        code, out, err = run(team, "report", "days")
    finally:
        world.execute("alter table progress disable row level security")
    assert (code, out) == (1, "")
    assert err == 'Error: query would be affected by row-level security policy for table "progress"\n'
