"""The files of sql/: PostgreSQL can prepare each, its header is true, and psql runs it unchanged."""

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus
from psycopg.rows import dict_row

from app.database import readiness, statements
from app.database.statements import STATEMENTS
from app.demo.postgres import bindir
from app.settings import from_environ
from tests.world import (
    LEARNER,
    STRANGER,
    add_course,
    add_module,
    add_user,
    bearer,
    complete,
    give_course,
    require,
    uuid4,
)

# session.sql reads a table of the site. tests/test_cookies.py tests it with such tables.
NAMES = sorted(set(STATEMENTS) - {"session"})
# A value for every parameter that a statement has.
VALUES = {
    "user_id": LEARNER,
    "lesson_id": uuid4(0x12),
    "module_id": uuid4(1),
    "course_id": uuid4(3),
    "completed_at": "now",
    "expires_at": "2030-01-01T00:00:00Z",
    "email": "learner@example.org",
    "name": "A learner",
    "key": "a key",
    "amount": "10",
    "window": "60",
    "customer_id": "cus_1",
    "stripe_id": "cus_1",
    "source": "pi_1",
    "payment_intent_id": "pi_1",
    "refunded_at": "1795478400",
    "refund_failed_at": "1795478300",
    "dispute_lost_at": "1795478400",
    "course_ids": f"{{{uuid4(3)}}}",
    # A completed lesson, one that is not there, one that needs the next one.
    "lesson_ids": f"{{{uuid4(0x11)},{uuid4(0x99)},{uuid4(0x13)},{uuid4(0x12)}}}",
    "completed_ats": "{null,null,2026-01-02T00:00:00Z,2026-01-01T00:00:00Z}",
    "to_mark": f"{{{uuid4(0x11)},{uuid4(0x12)}}}",
    "to_mark_ats": "{2026-01-02T00:00:00Z,2026-01-01T00:00:00Z}",
    "module_ids": f"{{{uuid4(1)}}}",
    "module_completed_ats": "{2026-01-02T00:00:00Z}",
    "course_completed_ats": "{2026-01-02T00:00:00Z}",
    "stripe_subscription_id": "sub_1",
    "claimed_user_id": LEARNER,
    "status": "active",
    "current_period_end": "1924992000",
    "event_id": "evt_1",
    "event_type": "updated",
    "event_created": "1795478400",
    "object": "{}",
    "previous_attributes": "{}",
    "rivals": "[]",
    "items": '[{"stripe_subscription_id": "sub_1", "items": {"event": "evt_1", "ends": {"price_1": 1}}}]',
    "checkout_session_id": "cs_1",
    "session_created": "1795478400",
    "user_ids": f"{{{LEARNER}}}",
    "missing_user_ids": "{}",
    "quoted_site_id": f'"{LEARNER}"',
    "ids": f"{{{uuid4(3)},{uuid4(2)},{uuid4(0x11)}}}",
    "after": uuid4(0),
    "since": "2026-01-01",
    "prices": "{price_1,prod_1}",
    "grace": "3600",
    "tables": '["users", "progress"]',
    "limit": "16",
    "webhook_id": "msg_1",
    "attempts": '[{"userId": "00000000-0000-4000-8000-000000000001", "id": 1, "claimedAt": "2026-01-01T00:00:00Z"}]',
    "chosen": '[{"user_id": "00000000-0000-4000-8000-000000000001", "id": 1}]',
    "events": '[{"type": "lesson.completed", "data": {}}]',
    "catalog": '{"courses": [], "modules": [], "lessons": [], "prerequisites": [], "left_out": []}',
}


def path(name: str) -> Path:
    return statements.SQL / f"{name}.sql"


def values(name: str) -> list[str]:
    return [VALUES[parameter] for parameter in STATEMENTS[name].parameters]


def before(name: str) -> list[str]:
    """Return the statements that must run before this one, in its transaction."""
    return ["admin/import_begin"] if name.startswith("admin/import_") and name != "admin/import_begin" else []


def run(world: psycopg.Connection, name: str, **given: str) -> list[dict[str, Any]]:
    """Run a statement with VALUES, except for the given values. Return its rows."""
    parameters = [(VALUES | given)[parameter] for parameter in STATEMENTS[name].parameters]
    cursor = psycopg.RawCursor(world, row_factory=dict_row).execute(STATEMENTS[name].query, parameters)
    return cursor.fetchall() if cursor.description else []


def header(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the (name, type) pairs that a file's header lists under Parameters and under Returns."""
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
    add_course(db, 3, 1)
    require(db, 0x13, 0x12)
    complete(db, 0x11, 0x21)
    return db


@pytest.mark.parametrize("name", NAMES)
def test_a_file_prepares_and_its_header_is_what_the_server_says_of_it(world, name):
    def described(oids: list[int]) -> list[str]:
        kind = "select format_type(%s::oid, null)"
        return [world.execute(kind, [oid]).fetchone()[0] for oid in oids]

    def short(kind: str) -> str:
        return kind.replace("timestamp with time zone", "timestamptz")

    pgconn = world.pgconn
    with world.transaction(force_rollback=True):
        for earlier in before(name):
            run(world, earlier)
        prepared = pgconn.prepare(b"described", STATEMENTS[name].query)
        assert prepared.status == ExecStatus.COMMAND_OK, prepared.get_error_message()
        description = pgconn.describe_prepared(b"described")
        world.execute("deallocate described")
    parameters = described([description.param_type(i) for i in range(description.nparams)])
    columns = described([description.ftype(i) for i in range(description.nfields)])
    fields = [description.fname(i).decode() for i in range(description.nfields)]
    assert header(name) == (
        list(zip(STATEMENTS[name].parameters, map(short, parameters), strict=True)),
        list(zip(fields, columns, strict=True)),
    )


def cte(name: str, which: str) -> str | None:
    """Return the CTE `which` of a statement, without comments. Return None if the statement has no such CTE."""
    text = re.sub("--.*\n", "", path(name).read_text())
    found = re.search(rf"^(?:with (?:recursive )?)?{which} as (?:materialized )?\(\n.*?^\)", text, re.M | re.S)
    return found[0].removeprefix("with ").removeprefix("recursive ") if found else None


def test_the_ctes_that_stand_in_several_statements_are_equal():
    """They are not in a view, because PostgreSQL would not materialize them there."""

    def copies(which: str, but: tuple[str, ...] = ()) -> set[str | None]:
        return {cte(name, which) for name in NAMES if cte(name, which) and name not in but}

    assert len(copies("learner")) == 1
    # Of the learner's own rows and of the catalog, these read what concerns one module, or one course.
    of_a_part = ("module", "course", "may_mark_lessons")
    assert len(copies("completed", but=of_a_part)) == 1
    for which in ("prerequisites", "completed", "locked"):
        assert cte("module", which) == cte("course", which) == cte("may_mark_lessons", which)
    module = cte("module", "locked")
    assert module
    assert copies("locked", but=of_a_part) == {module.replace("from prerequisites", "from published_prerequisites")}
    # Whose a subscription at Stripe is: what the export shows, and what erasing deletes.
    assert cte("export", "own_subscriptions") == cte("admin/erase_stripe", "own_subscriptions")
    # What starting over deletes, closes and returns.
    assert cte("start_over_module", "removed") == cte("start_over_course", "removed")
    assert cte("start_over_course", "started_over_modules") == cte("start_over_all", "started_over_modules")
    removed = re.compile(r"^    \(\n        select\n            coalesce\(.*?^    \) as removed", re.M | re.S)
    texts = [path(f"start_over_{part}").read_text() for part in ("module", "course", "all")]
    assert len({removed.findall(text)[0] for text in texts}) == 1


def test_no_statement_has_an_access_rule_of_its_own():
    """The views have the rule. Only Stripe's mirror and the tasks use the tables below them."""
    tables = r"\b(?:from|join|using) (?:subscriptions|enrollments|course_enrollments|lesson_prerequisites)\b"
    for name in NAMES:
        text = re.sub("--.*\n", "", path(name).read_text())
        if "/" not in name and not name.startswith("stripe_"):
            # access.sql reads the tables too, for the time at which access ends, and export.sql shows their rows.
            assert name in ("access", "export") or not re.search(tables, text), name
            # A module is completed if all published lessons are, also those that the learner may not take.
            words = r"\bis_free\b|\bpublished\b|\bexpires_at is null\b|'trialing'"
            finishing = ("may_mark", "may_mark_lessons", "finished")
            assert set(re.findall(words, text)) <= ({"published"} if name in finishing else set()), name


def psql(url: str, name: str) -> list[list[str]]:
    """Run a file with psql in a transaction that is rolled back. Return the rows that psql prints."""
    variables = [f"--set={parameter}={VALUES[parameter]}" for parameter in STATEMENTS[name].parameters]
    command = [str(bindir() / "psql"), "-X", "-q", "--csv", "-t", "--set=ON_ERROR_STOP=1", *variables, url]
    files = [word for file in (*before(name), name) for word in ("-f", str(path(file)))]
    command += ["-c", "begin", *files, "-c", "rollback"]
    return list(csv.reader(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()))


@pytest.mark.parametrize("name", NAMES)
def test_psql_gets_the_rows_that_the_service_gets(world, database_url, name):
    with (
        psycopg.connect(database_url, cursor_factory=psycopg.RawCursor) as connection,
        connection.transaction(force_rollback=True),
    ):
        for earlier in before(name):
            connection.execute(STATEMENTS[earlier].query)
        result = connection.execute(STATEMENTS[name].query, values(name)).pgresult
    assert result is not None
    rows = [[(result.get_value(r, c) or b"").decode() for c in range(result.nfields)] for r in range(result.ntuples)]
    printed = psql(database_url, name)
    if name == "export":
        for texts in (rows, printed):
            texts[0][1] = re.sub(r'"exportedAt" : "[^"]*"', "", texts[0][1])
    assert printed == rows
    if name == "summary":
        assert rows == [["t", '{"percent" : 66, "completedCount" : 2, "totalCount" : 3}']]


def test_a_file_that_does_not_prepare_stops_the_start_in_one_line(environ, monkeypatch, tmp_path):
    broken = tmp_path / "broken.sql"
    broken.write_text("-- A comment.\nselect nonsense\nfrom lessons;\n")
    monkeypatch.setitem(STATEMENTS, "broken", statements.load(broken))
    with pytest.raises(readiness.NotReadyError) as error:
        readiness.check(from_environ(environ))
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
    statement = statements.load(file)
    assert statement.query == b"/* example.sql */ select $1::uuid, $2::text, '%', x::text, ':''c''', $1::uuid;\n"
    assert statement.parameters == ("b", "a")


def test_two_files_of_one_name_in_two_folders_are_told_apart():
    begins = {name: STATEMENTS[name].query.split(b" */")[0] for name in ("lock", "stripe/lock")}
    assert begins == {"lock": b"/* lock.sql", "stripe/lock": b"/* stripe/lock.sql"}


@pytest.mark.parametrize(
    "name", ["lesson", "marked_lessons", "admin/access", *(n for n in NAMES if "enrolled" in dict(header(n)[1]))]
)
def test_access_is_over_at_the_very_moment_that_its_row_names_whatever_others_have(world, name):
    add_user(world, STRANGER)
    with world.transaction(force_rollback=True):  # in one transaction now() does not move on
        world.execute("update lessons set is_free = true")
        world.execute("update subscriptions set current_period_end = now() where user_id = %s", [LEARNER])
        world.execute("insert into enrollments values (%s, now()), (%s, null)", [LEARNER, STRANGER])
        for user_id, until in ((LEARNER, "now"), (STRANGER, None)):
            give_course(world, 3, user_id, until=until)
        (row,) = run(world, name)
    if name == "lesson":
        nothing = {"percent": 0, "completedCount": 0, "totalCount": 0}
        parts = {"module": {"moduleId": uuid4(1)}, "course": {"courseId": uuid4(3)}, "overall": {}}
        assert {part: row["answer"][part] for part in parts} == {part: parts[part] | nothing for part in parts}
    elif name == "marked_lessons":
        assert row == {"modules": [], "courses": [], "overall": {"percent": 0, "completedCount": 0, "totalCount": 0}}
    elif name == "admin/access":
        assert row["access"] is None
    else:
        assert row["enrolled"] is False


def test_a_database_session_is_over_at_the_very_moment_that_its_row_names(world):
    with world.transaction(force_rollback=True):
        world.execute('create table sessions ("sessionToken" text, "userId" uuid, "expires" timestamptz)')
        world.execute("insert into sessions values ('a', %s, now()), ('b', %s, now() + '1 ms')", [LEARNER, LEARNER])
        statement = statements.session_statement("sessions")
        rows = [psycopg.RawCursor(world).execute(statement.query, [key]).fetchall() for key in ("a", "b")]
    assert rows == [[], [(LEARNER,)]]


@pytest.mark.parametrize("name", [name for name in NAMES if "\n-- Returns: one row" in path(name).read_text()])
def test_a_statement_of_one_row_has_no_more(world, name):
    with world.transaction(force_rollback=True):
        world.execute("delete from lesson_prerequisites; delete from progress")
        for earlier in before(name):
            run(world, earlier)
        assert len(run(world, name)) <= 1


@pytest.mark.parametrize("name", ["may_mark", "unmark"])
def test_a_lesson_that_is_not_there_is_not_available(world, name):
    (row,) = run(world, name, lesson_id=uuid4(0x99))
    assert (row["enrolled"], row["known"], row["available"]) == (True, False, False)


# The statements of Stripe's mirror, in states that two events one after the other cannot make.

ANOTHER = uuid4(0xB0B)


def subscription(world: psycopg.Connection, id: str, **columns: Any) -> None:
    """Add a row of stripe_subscriptions."""
    row = {"customer_id": "cus_1", "user_id": None, "claimed_user_id": None, "status": "canceled"} | columns
    row |= {"stripe_subscription_id": id, "event_id": "e", "event_type": "updated", "object": "{}"}
    row = {"current_period_end": None, "event_created": "2026-01-01", "previous_attributes": "{}"} | row
    marks = ", ".join(f"%({name})s" for name in row)
    world.execute(f"insert into stripe_subscriptions ({', '.join(row)}) values ({marks})", row)


def owners(world: psycopg.Connection) -> dict[str, str | None]:
    rows = world.execute("select stripe_subscription_id, user_id::text from stripe_subscriptions").fetchall()
    return dict(rows)


def test_attach_names_each_subscription_of_the_customer_by_id_and_leaves_others_alone(world):
    add_user(world, ANOTHER)
    world.execute(
        "insert into stripe_customers (customer_id, claimed_user_id, event_created)"
        " values ('cus_1', %s, now()), ('cus_2', %s, now())",
        [ANOTHER, ANOTHER],
    )
    subscription(world, "sub_3", claimed_user_id=uuid4(0x99), user_id=LEARNER)  # names a learner who is not in users
    subscription(world, "sub_2", user_id=ANOTHER)
    subscription(world, "sub_1", claimed_user_id=LEARNER, user_id=ANOTHER)
    subscription(world, "sub_4", customer_id="cus_2", claimed_user_id=LEARNER)
    rows = [tuple(str(value) for value in row.values()) for row in run(world, "stripe/attach")]
    assert rows == [
        ("sub_1", ANOTHER, LEARNER, LEARNER),
        ("sub_2", ANOTHER, ANOTHER, ANOTHER),
        ("sub_3", LEARNER, "None", uuid4(0x99)),
    ]
    assert owners(world) == {"sub_1": LEARNER, "sub_2": ANOTHER, "sub_3": None, "sub_4": None}
    rows = world.execute("select customer_id, user_id::text from stripe_customers order by 1").fetchall()
    assert rows == [("cus_1", ANOTHER), ("cus_2", None)]


def test_attach_ties_no_customer_to_somebody_else(world):
    add_user(world, ANOTHER)
    world.execute(
        "insert into stripe_customers (customer_id, claimed_user_id, event_created) values ('cus_1', %s, now())",
        [uuid4(0x99)],
    )
    assert run(world, "stripe/attach") == []
    assert world.execute("select user_id from stripe_customers").fetchall() == [(None,)]


@pytest.mark.parametrize(
    ("one", "two", "best"),
    [
        ({"current_period_end": None}, {"current_period_end": "2026-01-01"}, "sub_2"),
        ({"current_period_end": "2026-01-01"}, {"current_period_end": None}, "sub_1"),
        ({"current_period_end": "2026-01-01"}, {"current_period_end": "2026-01-01"}, "sub_1"),
        ({}, {}, "sub_1"),
    ],
)
def test_of_two_subscriptions_that_give_nothing_the_one_with_the_later_end_and_then_the_first_is_copied(
    world, one, two, best
):
    for order in (("sub_1", "sub_2"), ("sub_2", "sub_1")):
        with world.transaction(force_rollback=True):
            for id in order:
                subscription(world, id, user_id=LEARNER, **{"sub_1": one, "sub_2": two}[id])
            run(world, "stripe/copy", prices="{}")
            assert world.execute("select stripe_subscription_id from subscriptions").fetchall() == [(best,)]


def test_release_takes_what_is_not_the_learners_any_more_and_nothing_else(world):
    add_user(world, ANOTHER)
    add_user(world, uuid4(0xC), access=None)
    world.execute("update subscriptions set stripe_subscription_id = 'sub_1' where user_id = %s", [LEARNER])
    world.execute("update subscriptions set stripe_subscription_id = 'sub_2' where user_id = %s", [ANOTHER])
    world.execute(
        "insert into subscriptions (user_id, stripe_subscription_id, status) values (%s, 'sub_3', 'active')",
        [uuid4(0xC)],
    )
    subscription(world, "sub_1", user_id=LEARNER)
    subscription(world, "sub_2", user_id=LEARNER)
    subscription(world, "sub_3", customer_id="cus_2", user_id=LEARNER)
    for user_ids, left in (("{}", [("sub_1",), ("sub_3",)]), (f"{{{LEARNER}}}", [("sub_1",)])):
        run(world, "stripe/release", user_ids=user_ids)
        assert world.execute("select stripe_subscription_id from subscriptions order by 1").fetchall() == left


def test_what_is_saved_takes_the_place_of_everything_that_was_known(world):
    later = {
        "customer_id": "cus_2",
        "claimed_user_id": uuid4(0x99),
        "status": "past_due",
        "current_period_end": "1",
        "event_id": "evt_2",
        "event_type": "created",
        "event_created": "2",
        "object": '{"a": 1}',
        "previous_attributes": '{"b": 2}',
    }
    run(world, "stripe/save")
    before = world.execute("select updated_at, clock_timestamp() from stripe_subscriptions").fetchone()
    assert before is not None
    run(world, "stripe/save", **later)
    columns = ", ".join(f"{name}::text" for name in later)
    with world.transaction():
        world.execute("set local timezone = 'UTC'")
        (saved,) = world.execute(f"select {columns} from stripe_subscriptions").fetchall()
    moments = {"current_period_end": "1970-01-01 00:00:01+00", "event_created": "1970-01-01 00:00:02+00"}
    assert dict(zip(later, saved, strict=True)) == later | moments
    assert world.execute("select updated_at > %s from stripe_subscriptions", [before[0]]).fetchone() == (True,)


def test_of_three_checkouts_the_first_holds_whatever_their_order(world):
    for user_id, created in ((LEARNER, "2"), (ANOTHER, "1"), (uuid4(0xC), "3")):
        session = f"cs_{user_id}"
        run(world, "stripe/tie", claimed_user_id=user_id, session_created=created, checkout_session_id=session)
    assert world.execute("select claimed_user_id::text from stripe_customers").fetchall() == [(ANOTHER,)]


def test_of_the_checkouts_that_name_one_subscription_the_first_says_whose_it_is(world):
    add_user(world, ANOTHER)
    subscription(world, "sub_1")
    for session, user_id, created in (("cs_2", LEARNER, "1"), ("cs_1", ANOTHER, "1"), ("cs_0", LEARNER, "2")):
        said = {"checkout_session_id": session, "claimed_user_id": user_id, "session_created": created}
        run(world, "stripe/checkout", **said)
        # The second time, the session names another learner. The first row stays.
        run(world, "stripe/checkout", **(said | {"claimed_user_id": uuid4(0xC)}))
    run(world, "stripe/attach")
    assert owners(world) == {"sub_1": ANOTHER}


def test_what_a_load_would_touch_comes_in_the_order_of_the_catalog(db):
    add_module(db, 3, 0x31, 0x32)  # the catalog has no lesson of this module
    add_module(db, 4, 0x41)
    add_module(db, 1, 0x11, 0x12)
    db.execute("update lessons set position = 1, title = 'Lesson 01' where id = %s", [uuid4(0x41)])
    modules = [
        {"id": uuid4(module), "title": f"Module {module}", "position": position}
        for module, position in ((5, 2), (2, 3), (1, 1))
    ]
    lessons = [
        {
            "id": uuid4(lesson),
            "module_id": uuid4(module),
            "title": f"Lesson {lesson:x}",
            "position": position,
            "published": True,
            "is_free": False,
        }
        for module, lesson, position in (
            (5, 0x51, 1),
            (2, 0x21, 1),
            (1, 0x13, 3),
            (1, 0x12, 2),
            (1, 0x11, 4),
            (2, 0x20, 2),
        )
    ]
    left_out = [uuid4(lesson) for lesson in (0x32, 0x41, 0x31)]
    catalog = {"modules": modules, "lessons": lessons, "left_out": left_out}
    found = run(db, "admin/catalog_changes", catalog=json.dumps(catalog))
    assert [(row["kind"], row["title"], row["added"], row["changed"], row["unpublished"]) for row in found] == [
        ("module", "Module 5", True, False, False),
        ("module", "Module 2", True, False, False),
        ("lesson", "Lesson 13", True, False, False),
        ("lesson", "Lesson 11", False, True, False),
        ("lesson", "Lesson 51", True, False, False),
        ("lesson", "Lesson 21", True, False, False),
        ("lesson", "Lesson 20", True, False, False),
        ("lesson", "Lesson 01", False, False, True),
        ("lesson", "Lesson 31", False, False, True),
        ("lesson", "Lesson 32", False, False, True),
    ]


def test_customers_whom_nobody_is_known_to_be_are_named_once_in_order(world):
    for number in range(20):
        subscription(world, f"sub_{number}", customer_id=f"cus_{number % 9}", user_id=None if number % 9 else LEARNER)
    with world.transaction():
        world.execute("set local enable_sort = off")  # a sort for `distinct` would give the order by chance
        named = [row["customer_id"] for row in run(world, "admin/stripe_unattached")]
    assert named == [f"cus_{number}" for number in range(1, 9)]


def test_a_customer_with_anything_that_names_the_learner_and_is_nobodys_is_claimed(world):
    add_user(world, ANOTHER)
    for number, (claimed, owner) in enumerate(((LEARNER, None), (LEARNER, ANOTHER), (ANOTHER, None), (None, None)), 1):
        subscription(world, f"sub_{number}", customer_id=f"s{number}", claimed_user_id=claimed, user_id=owner)
        if claimed:
            world.execute(
                "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id,"
                " claimed_user_id, user_id, session_created) values (%s, %s, 'sub', %s, %s, now())",
                [f"cs_{number}", f"c{number}", claimed, owner],
            )
            world.execute(
                "insert into stripe_customers (customer_id, claimed_user_id, user_id, event_created)"
                " values (%s, %s, %s, now())",
                [f"a{number}", claimed, owner],
            )
    assert [row["customer_id"] for row in run(world, "stripe/claimed")] == ["a1", "c1", "s1"]
    # Each customer once, in order: two calls lock the same customers in the same order.
    for number in range(20):
        subscription(world, f"more_{number}", customer_id=f"{'cas'[number % 3]}1", claimed_user_id=LEARNER)
    with world.transaction():
        world.execute("set local enable_sort = off")  # which would order them by itself
        assert [row["customer_id"] for row in run(world, "stripe/claimed")] == ["a1", "c1", "s1"]


def test_without_the_tables_nobody_may_add_to_them(world):
    with world.transaction(force_rollback=True):
        (before,) = run(world, "learners/rights")
        world.execute("set local search_path = pg_catalog")
        (after,) = run(world, "learners/rights")
    assert [(row["own_users"], row["may_add"], row["may_enroll"]) for row in (before, after)] == [
        (True, True, True),
        (False, None, None),
    ]


@pytest.mark.parametrize(("access", "was_free"), [(None, False), ("full", False), ("free", True)])
def test_a_revoked_free_path_is_the_learners_own(db, access, was_free):
    add_user(db, access=access)
    add_user(db, STRANGER, access="free")
    assert [row["free_access"] or False for row in run(db, "admin/access")] == [was_free]
    assert run(db, "admin/revoke_free") == []
    ended = db.execute("select user_id::text from enrollments where expires_at <= now()").fetchall()
    assert ended == [(LEARNER,)]


@pytest.mark.parametrize("access", [None, "free", "full"])
def test_access_tells_whether_the_learner_is_enrolled(db, access):
    add_user(db, access=access)
    add_user(db, STRANGER)
    (row,) = run(db, "access")
    assert row["enrolled"] is (access is not None)


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ("nobody", (False, False, False)),
        (None, (False, True, False)),
        ("full", (True, True, False)),
        ("free", (True, True, True)),
        ("ended", (False, True, True)),
    ],
)
def test_what_a_learner_has_in_the_tables_and_what_is_missing(db, access, expected):
    add_user(db, STRANGER, access="free")
    if access != "nobody":
        add_user(db, access=access)
    if access == "ended":
        db.execute("insert into enrollments values (%s, now())", [LEARNER])
    (row,) = run(db, "learners/missing")
    assert (row["enrolled"], row["is_user"], row["was_enrolled"]) == expected


def test_the_learners_own_subscriptions_are_named_what_stripe_said_last_first(world):
    add_user(world, ANOTHER)
    for id, said, owner in (("b", "1", LEARNER), ("c", "2", LEARNER), ("a", "1", LEARNER), ("d", "3", ANOTHER)):
        subscription(world, id, user_id=owner, event_created=f"2026-01-0{said}")
    named = [(row["stripe_subscription_id"], row["said_at"]) for row in run(world, "admin/stripe_subscriptions")]
    assert named == [("c", "2026-01-02T00:00:00Z"), ("a", "2026-01-01T00:00:00Z"), ("b", "2026-01-01T00:00:00Z")]


def test_what_is_new_goes_last_by_its_position_in_the_catalog_and_what_is_there_stays(db):
    add_module(db, 1, position=7)
    add_module(db, 2, position=90)
    db.execute("insert into courses (id, title, position) values (%s, 'One', 5)", [uuid4(1)])
    db.execute("update modules set course_id = %s where id = %s", [uuid4(1), uuid4(2)])
    ids = [(3, 3), (1, 2), (4, 1)]  # not in the order of their positions
    courses = [{"id": uuid4(id), "position": position} for id, position in ids]
    # Module 2 leaves its course, and module 6 is in one.
    modules = [{"id": uuid4(id), "course_id": None, "position": position} for id, position in [*ids, (2, 4)]]
    modules += [{"id": uuid4(6), "course_id": uuid4(1), "position": 1}]
    found = run(db, "admin/catalog_positions", catalog=json.dumps({"courses": courses, "modules": modules}))
    assert sorted((row["kind"], row["position"], row["id"]) for row in found) == [
        ("course", 5, uuid4(1)),
        ("course", 6, uuid4(4)),
        ("course", 7, uuid4(3)),
        ("module", 7, uuid4(1)),
        ("module", 8, uuid4(4)),
        ("module", 9, uuid4(3)),
        ("module", 10, uuid4(2)),
    ]


@pytest.fixture
def given_courses(db: psycopg.Connection) -> psycopg.Connection:
    """A learner with three courses, of which two have one position."""
    add_user(db)
    for course, position in ((3, 1), (2, 1), (1, 2)):
        db.execute(
            "insert into courses (id, title, position) values (%s, %s, %s)",
            [uuid4(course), f"Course {course}", position],
        )
        for source in ("b", "", "a"):
            db.execute(
                "insert into course_enrollments (user_id, course_id, source) values (%s, %s, %s)",
                [LEARNER, uuid4(course), source],
            )
    return db


def test_the_learners_courses_are_named_in_the_order_of_the_catalog_and_of_their_sources(given_courses):
    named = [(row["course_id"], row["source"]) for row in run(given_courses, "admin/course_access")]
    assert named == [(uuid4(course), source) for course in (2, 3, 1) for source in ("", "a", "b")]


def test_a_course_is_over_at_the_very_moment_that_its_row_names(given_courses):
    with given_courses.transaction(force_rollback=True):
        given_courses.execute("update course_enrollments set expires_at = now()")
        assert {row["has_ended"] for row in run(given_courses, "admin/course_access")} == {True}
        assert run(given_courses, "admin/revoke_course", course_id=uuid4(3)) == [{"was_given": False}]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_documented_for_dbas(name):
    assert f"`{name}.sql`" in (statements.SQL / "README.md").read_text()
