"""A learner's data, contract §8: the export has all of it and nothing else, and erasing leaves nothing of it."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from app.database import statements
from tests import pages
from tests.bench import plans
from tests.conftest import MODES, both_plans, one_plan
from tests.test_cli import run
from tests.test_concurrency import in_background, lock_held, wait_until_blocked
from tests.world import (
    LEARNER,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    get,
    mark,
    ok,
    uuid4,
)

plan_mode = both_plans()

OTHER = uuid4(0xB0B)
# Every id at Stripe, the address and the name of a learner contain this word.
WORDS = {LEARNER: "adaword", OTHER: "bobword"}
AT = "2026-01-02T03:04:05.678Z"

# The tables that hold nothing of a learner.
OF_NOBODY = {"courses", "modules", "lessons", "lesson_prerequisites", "learner_tag_keys"}
# Where the export has the rows of each table, and the columns that it leaves out: whose row it is, and when the learner
# or a completion was added. `events` and `rate_limits` are in no export.
SHOWN: dict[str, tuple[str, set[str]]] = {
    "users": ("", {"id", "created_at"}),
    "progress": ("lessons", {"user_id"}),
    "module_completions": ("completions.modules", {"user_id", "created_at"}),
    "course_completions": ("completions.courses", {"user_id", "created_at"}),
    "subscriptions": ("access.subscription", set()),
    "enrollments": ("access.enrollment", set()),
    "course_enrollments": ("access.courses", {"user_id"}),
    "stripe_customers": ("stripe.customers", set()),
    "stripe_checkouts": ("stripe.checkouts", set()),
    "stripe_subscriptions": ("stripe.subscriptions", {"rivals"}),
    "stripe_payments": ("stripe.payments", set()),
    "stripe_reversals": ("stripe.reversals", set()),
}


def tables(db: psycopg.Connection) -> list[str]:
    """Return the tables of the schema, but for those that record the migrations."""
    found = db.execute(
        "select relname from pg_class where relkind in ('r', 'p') and relnamespace = current_schema::regnamespace"
        " and relname !~ 'yoyo' order by 1"
    )
    return [table for (table,) in found]


def rows(db: psycopg.Connection) -> dict[str, list[str]]:
    """Return every row of every table, with all its columns as text, in some order that stays the same."""
    return {
        table: [row for (row,) in db.execute(f'select {table}::text from {table} order by {table}::text collate "C"')]
        for table in tables(db)
    }


def of(user_id: str, row: str) -> bool:
    return user_id in row or WORDS[user_id] in row


def fill(db: psycopg.Connection, user_id: str) -> None:
    """Write rows of a learner into every table that can have some."""
    word = WORDS[user_id]
    add_user(db, user_id, access="free")
    given = {"user": user_id, "word": word, "at": AT, "lesson": uuid4(0x11), "module": uuid4(1), "course": uuid4(3)}
    given["object"] = json.dumps({"id": f"sub_{word}", "metadata": {"userId": user_id}})
    for statement in (
        "update users set email = %(word)s || '@example.org', name = 'Name of ' || %(word)s where id = %(user)s",
        "insert into progress (user_id, lesson_id, completed_at) select %(user)s, id, %(at)s from lessons",
        "insert into module_completions values (%(user)s, %(module)s, %(at)s, now())",
        "insert into module_completions values (%(user)s, %(module)s, now())",
        "insert into course_completions values (%(user)s, %(course)s, %(at)s)",
        "insert into subscriptions values (%(user)s, 'sub_' || %(word)s, 'active', %(at)s)",
        "insert into course_enrollments values (%(user)s, %(course)s)",
        "insert into course_enrollments values (%(user)s, %(course)s, 'pi_' || %(word)s, now())",
        "insert into events (user_id, webhook_id, type, data, next_attempt_at)"
        " values (%(user)s, 'msg_' || %(word)s, 'lesson.completed', %(object)s, now() + interval '1 hour')",
        "insert into rate_limits values ('LIMITER/progress/' || %(user)s || '/writes/10/1/minute', '{}', now())",
        "insert into stripe_customers (customer_id, claimed_user_id, user_id, event_created)"
        " values ('cus_' || %(word)s, %(user)s, %(user)s, now())",
        "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id,"
        " user_id, session_created) values ('cs_' || %(word)s, 'cus_' || %(word)s, 'sub_' || %(word)s, %(user)s,"
        " %(user)s, now())",
        "insert into stripe_subscriptions (stripe_subscription_id, customer_id, claimed_user_id, user_id, status,"
        " current_period_end, event_id, event_type, event_created, object, previous_attributes, items)"
        " values ('sub_' || %(word)s, 'cus_' || %(word)s, %(user)s, %(user)s, 'active', now(), 'evt_' || %(word)s,"
        " 'updated', now(), %(object)s, '{}', '{}')",
        "insert into stripe_payments (source, checkout_session_id, claimed_user_id, course_ids, user_id, event_created)"
        " values ('pi_' || %(word)s, 'cs_2_' || %(word)s, %(user)s, array[%(course)s]::uuid[], %(user)s, now())",
        "insert into stripe_reversals (payment_intent_id, refunded_at) values ('pi_' || %(word)s, now())",
    ):
        db.execute(statement.encode(), given)


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    """Two learners with rows everywhere. Lesson 0x12 is unpublished, lesson 0x21 is in no course."""
    add_module(db, 1, 0x11)
    add_lesson(db, 1, 0x12, published=False)
    add_module(db, 2, 0x21)
    add_course(db, 3, 1)
    for user_id in (LEARNER, OTHER):
        fill(db, user_id)
    return db


def test_the_page_for_operators_says_of_each_table_what_it_holds():
    told = {
        name
        for row in pages.table("docs/learner-data.md", "What is stored where")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert told == set(SHOWN) | {"events", "rate_limits"}


def at(document: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        document = document[name]
    return document


def test_the_worlds_learners_have_rows_in_every_table_that_can_have_some(world):
    """Whoever adds a table says here what it holds. So neither the export nor erasing can forget the table."""
    for user_id in (LEARNER, OTHER):
        filled = {table for table, found in rows(world).items() if any(of(user_id, row) for row in found)}
        assert filled == set(tables(world)) - OF_NOBODY
    assert filled == set(SHOWN) | {"events", "rate_limits"}


def test_the_export_has_every_column_of_every_row_of_the_learner(api, world):
    document = get(api, "export")
    for table, (path, left_out) in SHOWN.items():
        found = at(document, path)
        shown = found if isinstance(found, list) else [found]
        columns = world.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            [table],
        )
        expected = {
            re.sub(r"_(.)", lambda letter: letter[1].upper(), name) for (name,) in columns if name not in left_out
        }
        assert all(expected <= set(row) for row in shown), table
        assert len(shown) == sum(of(LEARNER, row) for row in rows(world)[table]), table


def test_the_export_shows_what_counts_and_what_does_not(api, world):
    world.execute("update lessons set title = 'Zoë \"x\" \\ ' where id = %s", [uuid4(0x11)])
    world.execute("update progress set created_at = %s, updated_at = '2026-02-03T04:05:06.789999Z'", [AT])
    document = get(api, "export")
    times = {"completedAt": AT, "createdAt": AT, "updatedAt": "2026-02-03T04:05:06.789Z"}
    assert document["lessons"] == [
        {"lessonId": uuid4(0x11), "title": 'Zoë "x" \\ ', "moduleId": uuid4(1), "courseId": uuid4(3), **times},
        {"lessonId": uuid4(0x12), "title": "Lesson 12", "moduleId": uuid4(1), "courseId": uuid4(3), **times},
        {"lessonId": uuid4(0x21), "title": "Lesson 21", "moduleId": uuid4(2), "courseId": None, **times},
    ]
    assert document["completions"]["courses"] == [{"courseId": uuid4(3), "completedAt": AT, "startedOverAt": None}]
    assert (document["userId"], document["email"], document["name"]) == (
        LEARNER,
        "adaword@example.org",
        "Name of adaword",
    )
    assert document["access"]["subscription"]["currentPeriodEnd"] == AT
    assert [(course["source"], course["courseId"]) for course in document["access"]["courses"]] == [
        ("", uuid4(3)),
        ("pi_adaword", uuid4(3)),
    ]
    assert document["stripe"]["subscriptions"][0]["object"] == {"id": "sub_adaword", "metadata": {"userId": LEARNER}}
    assert document["stripe"]["reversals"][0]["ended"] is True


def test_lessons_and_completions_come_by_time_and_then_by_id(api, world):
    for lesson, time in ((0x11, "05.678999"), (0x12, "05.678001"), (0x21, "05.677")):
        world.execute(
            "update progress set completed_at = %s where lesson_id = %s", [f"2026-01-02T03:04:{time}Z", uuid4(lesson)]
        )
    document = get(api, "export")
    assert [lesson["lessonId"] for lesson in document["lessons"]] == [uuid4(0x21), uuid4(0x11), uuid4(0x12)]
    times = [completion["completedAt"] for completion in document["completions"]["modules"]]
    assert times == sorted(times)
    assert len(times) == 2


def test_completions_and_courses_come_in_their_order(api, world):
    """Completions by the millisecond and then by id, courses as in the catalog and then by source."""
    add_course(world, 5, position=2)
    add_course(world, 4, position=2)
    for course, source in ((5, ""), (4, "b"), (4, "a")):
        world.execute("insert into course_enrollments values (%s, %s, %s)", [LEARNER, uuid4(course), source])
    shown = [(row["courseId"], row["source"]) for row in get(api, "export")["access"]["courses"]]
    assert shown == [(uuid4(4), "a"), (uuid4(4), "b"), (uuid4(5), ""), (uuid4(3), ""), (uuid4(3), "pi_adaword")]
    for kind, first, second in (("module", 1, 2), ("course", 4, 5)):
        world.execute(f"delete from {kind}_completions")
        for number, time in ((second, "05.678"), (first, "05.678999"), (second, "05.677"), (first, "05.679")):
            world.execute(
                f"insert into {kind}_completions values (%s, %s, %s, now())",
                [LEARNER, uuid4(number), f"2026-01-02T03:04:{time}Z"],
            )
        rows = get(api, "export")["completions"][f"{kind}s"]
        assert [row[f"{kind}Id"] for row in rows] == [uuid4(number) for number in (second, first, second, first)]


def test_what_stripe_said_comes_by_the_time_of_its_row_and_then_by_id(api, world):
    for table, key, columns, given in (
        ("customers", "customer_id", "claimed_user_id, event_created", "%(user)s, now()"),
        (
            "checkouts",
            "checkout_session_id",
            "claimed_user_id, customer_id, stripe_subscription_id, session_created",
            "%(user)s, 'cus', 'sub', now()",
        ),
        (
            "subscriptions",
            "stripe_subscription_id",
            "claimed_user_id, customer_id, status, event_id, event_type, event_created, object, previous_attributes",
            "%(user)s, 'cus', 'active', 'evt', 'updated', now(), '{}', '{}'",
        ),
        (
            "payments",
            "source",
            "claimed_user_id, checkout_session_id, course_ids, event_created",
            "%(user)s, 'cs', '{}', now()",
        ),
        ("reversals", "payment_intent_id", "refunded_at", "now()"),
    ):
        for id, day in (("b", 2), ("a", 2), ("c", 1)):
            world.execute(
                f"insert into stripe_{table} ({key}, created_at, {columns})"
                f" values (%(id)s, make_timestamptz(2026, 1, %(day)s, 0, 0, 0), {given})",
                {"user": LEARNER, "id": id, "day": day},
            )
        shown = get(api, "export")["stripe"][table]
        [name] = {name for name, value in shown[0].items() if value == "c"}
        assert [row[name] for row in shown[:-1]] == ["c", "a", "b"], table


def test_a_time_without_an_end_is_shown_as_it_is_stored(api, world):
    world.execute("update enrollments set expires_at = 'infinity'")
    world.execute("update course_enrollments set expires_at = '-infinity'")
    world.execute("update subscriptions set current_period_end = null, mirrored_period_end = '-infinity'")
    world.execute("update stripe_subscriptions set current_period_end = '2027-01-02T03:04:05.678Z'")
    document = get(api, "export")
    access = document["access"]
    assert document["stripe"]["subscriptions"][0]["currentPeriodEnd"] == "2027-01-02T03:04:05.678Z"
    world.execute(
        "update enrollments set expires_at = '2027-01-02Z'; update course_enrollments set expires_at = '2027-01-03Z';"
        " update subscriptions set current_period_end = 'infinity', mirrored_period_end = '2027-01-04Z';"
        " update stripe_subscriptions set current_period_end = 'infinity'"
    )
    changed = get(api, "export")
    assert changed["access"]["enrollment"]["expiresAt"] == "2027-01-02T00:00:00.000Z"
    assert {course["expiresAt"] for course in changed["access"]["courses"]} == {"2027-01-03T00:00:00.000Z"}
    assert changed["access"]["subscription"]["currentPeriodEnd"] == "infinity"
    assert changed["access"]["subscription"]["mirroredPeriodEnd"] == "2027-01-04T00:00:00.000Z"
    assert changed["stripe"]["subscriptions"][0]["currentPeriodEnd"] == "infinity"
    assert access["enrollment"]["expiresAt"] == "infinity"
    assert [course["expiresAt"] for course in access["courses"]] == ["-infinity"] * 2
    ends = access["subscription"]["currentPeriodEnd"], access["subscription"]["mirroredPeriodEnd"]
    assert ends == (None, "-infinity")


EMPTY: dict[str, Any] = {
    "email": None,
    "name": None,
    "lessons": [],
    "completions": {"modules": [], "courses": []},
    "access": {"subscription": None, "enrollment": None, "courses": []},
    "stripe": {"customers": [], "checkouts": [], "subscriptions": [], "payments": [], "reversals": []},
}


def test_of_a_person_who_is_not_in_users_there_is_what_stripe_said(api, world):
    """A learner without access, or without a row in users, gets an answer too."""
    at = {"exportedAt", "userId"}
    assert {name: value for name, value in get(api, "export", STRANGER).items() if name not in at} == EMPTY
    add_user(world, STRANGER, access=None)
    assert {name: value for name, value in get(api, "export", STRANGER).items() if name not in at} == EMPTY
    # The webhook keeps what names a person who is not in users yet.
    world.execute("delete from users where id = %s", [STRANGER])
    for table in ("customers", "checkouts", "subscriptions", "payments"):
        world.execute(f"update stripe_{table} set user_id = null, claimed_user_id = %s", [STRANGER])
    stripe = get(api, "export", STRANGER)["stripe"]
    assert {name: len(listed) for name, listed in stripe.items()} == dict.fromkeys(EMPTY["stripe"], 2)
    assert get(api, "export")["stripe"] == EMPTY["stripe"]


NOBODY = uuid4(0x99)  # not in users


@pytest.mark.parametrize(
    ("owner", "claimed", "sessions", "customer", "expected"),
    [
        (LEARNER, OTHER, [OTHER], OTHER, LEARNER),
        (None, LEARNER, [OTHER], OTHER, LEARNER),
        (None, None, [LEARNER, OTHER], OTHER, LEARNER),
        (None, None, [OTHER, LEARNER], LEARNER, OTHER),
        (None, None, {"cs_2": LEARNER, "cs_1": OTHER}, LEARNER, OTHER),
        (None, None, [], LEARNER, LEARNER),
        (None, NOBODY, [LEARNER], OTHER, NOBODY),
        (None, None, [], None, None),
    ],
    ids=[
        "owned",
        "claimed",
        "first_session",
        "another_first",
        "first_by_id",
        "customer",
        "claimed_by_nobody",
        "unnamed",
    ],
)
def test_a_subscription_is_in_the_export_of_the_learner_whom_the_mirror_gives_it_to_and_in_no_other(
    api, world, owner, claimed, sessions, customer, expected
):
    world.execute("delete from stripe_customers; delete from stripe_checkouts; delete from stripe_subscriptions")
    world.execute(
        "insert into stripe_subscriptions (stripe_subscription_id, customer_id, claimed_user_id, user_id, status,"
        " event_id, event_type, event_created, object, previous_attributes)"
        " values ('sub_1', 'cus_1', %s, %s, 'active', 'evt_1', 'updated', now(), '{}', '{}')",
        [claimed, owner],
    )
    if isinstance(sessions, dict):  # by their ids: they were made in one second
        made = [(id, named, 1) for id, named in sessions.items()]
    else:  # the first session has the later id
        made = [(f"cs_{9 - number}", named, number) for number, named in enumerate(sessions)]
    for one in made:
        world.execute(
            "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id,"
            " session_created) values (%s, 'cus_1', 'sub_1', %s, to_timestamp(%s))",
            one,
        )
    # A session of another subscription, and another customer, do not count.
    world.execute(
        "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id,"
        " session_created) values ('cs_0', 'cus_1', 'sub_2', %s, to_timestamp(0))",
        [uuid4(0x98)],
    )
    for id, named in (("cus_0", uuid4(0x98)), ("cus_1", customer)):
        if named:
            world.execute(
                "insert into stripe_customers (customer_id, claimed_user_id, event_created) values (%s, %s, now())",
                [id, named],
            )
    for user_id in (LEARNER, OTHER, NOBODY):
        shown = [row["stripeSubscriptionId"] for row in get(api, "export", user_id)["stripe"]["subscriptions"]]
        assert shown == (["sub_1"] if user_id == expected else []), user_id


def test_two_learners_exports_share_no_row(api, world):
    texts = {user_id: json.dumps(get(api, "export", user_id)) for user_id in (LEARNER, OTHER)}
    for user_id, other in ((LEARNER, OTHER), (OTHER, LEARNER)):
        assert of(user_id, texts[user_id])
        assert not of(other, texts[user_id])


def test_the_etag_is_weak_and_changes_with_what_is_stored_alone(api, world):
    first, second = (api.get("/api/progress/export", headers=bearer()) for _ in range(2))
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    assert second.headers["ETag"] == tag
    assert ok(first)["exportedAt"] <= ok(second)["exportedAt"]
    world.execute("delete from progress where user_id = %s", [OTHER])
    condition = bearer() | {"If-None-Match": tag}
    assert api.get("/api/progress/export", headers=condition).status_code == 304
    world.execute("update users set name = 'Ada' where id = %s", [LEARNER])
    assert ok(api.get("/api/progress/export", headers=condition))["name"] == "Ada"


# Two thousand learners who pay. Every second one is not in users yet.
MANY_WHO_PAY = """
    insert into users (id) select gen_random_uuid() from generate_series(1, 1000);
    create temporary table payers on commit drop as
    select
        row_number() over () as number,
        coalesce(id, gen_random_uuid()) as named,
        id as owner
    from users full join generate_series(1001, 2000) on false;
    insert into stripe_customers (customer_id, claimed_user_id, user_id, event_created)
    select 'cus_' || number, named, owner, now() from payers;
    insert into stripe_checkouts
        (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id, user_id, session_created)
    select 'cs_' || number, 'cus_' || number, 'sub_' || number, named, owner, now() from payers;
    insert into stripe_subscriptions
        (stripe_subscription_id, customer_id, claimed_user_id, user_id, status, event_id, event_type, event_created,
        object, previous_attributes)
    select 'sub_' || number, 'cus_' || number, named, owner, 'active', 'evt', 'updated', now(), '{}', '{}' from payers;
    insert into stripe_payments (source, checkout_session_id, claimed_user_id, course_ids, user_id, event_created)
    select 'pi_' || number, 'cs_' || number, named, '{}', owner, now() from payers;
    insert into stripe_reversals (payment_intent_id) select 'pi_' || number from payers;
    analyze;
"""


@pytest.mark.parametrize("mode", MODES)
def test_an_export_reads_nothing_that_stripe_said_of_others(database_url, mode):
    with (
        # If psycopg prepared statements itself, it would deallocate all of them after a rollback.
        closing(psycopg.connect(database_url, autocommit=True, prepare_threshold=None)) as connection,
        connection.transaction(force_rollback=True),
    ):
        connection.execute(MANY_WHO_PAY)
        plan = plans.explain(connection, "export", plans.Learner("", LEARNER, "", "", ""), mode)
    scans = {node["Relation Name"] for node in plan.nodes() if node["Node Type"] == "Seq Scan"}
    assert not [name for name in scans if name.startswith("stripe_")], "\n".join(plans.lines(plan.document))


# Erasing


def erased(user_id: str, before: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return what must be left of every row of every table."""
    return {table: [row for row in found if not of(user_id, row)] for table, found in before.items()}


def counts(user_id: str, before: dict[str, list[str]]) -> set[str]:
    """Return the lines that say how many rows each table has of a learner."""
    found = {table: sum(of(user_id, row) for row in listed) for table, listed in before.items()}
    return {f"{table}: {count}" for table, count in found.items() if table not in OF_NOBODY}


AT_STRIPE = "Stripe's next event about cus_adaword would be stored again: see to this customer at Stripe first"


def test_after_erasing_no_table_has_a_row_of_the_learner_and_every_other_row_is_as_before(world, database_url):
    # What a payment gave, which was claimed by the learner before they were in users.
    world.execute("update stripe_payments set user_id = null")
    before = rows(world)
    code, out, err = run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-2:] == [AT_STRIPE, "erased"]
    assert set(lines[:-2]) == counts(LEARNER, before)
    assert len(lines[:-2]) == len(set(lines[:-2]))
    assert rows(world) == erased(LEARNER, before)


def test_without_confirmation_it_says_what_there_is_and_removes_nothing(world, database_url):
    before = rows(world)
    for confirm in ({}, {"CONFIRM": "no"}):
        code, out, err = run(database_url, "erase-user", USER=LEARNER, **confirm)
        assert (code, err) == (1, "Error: nothing was removed; to remove these rows, add CONFIRM=yes\n")
        assert set(out.splitlines()) == counts(LEARNER, before) | {AT_STRIPE}
        assert rows(world) == before


def test_who_is_erased_already_and_who_never_was_there_is_refused(world, database_url):
    nobody = f"Error: there is no learner {STRANGER}: nothing is stored under this id\n"
    for task in ("export-user", "erase-user"):
        assert run(database_url, task, USER=STRANGER, CONFIRM="yes") == (1, "", nobody)
    assert run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")[0] == 0
    assert run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes") == (1, "", nobody.replace(STRANGER, LEARNER))


def test_what_stripe_keeps_for_a_person_who_is_not_in_users_is_exported_and_erased(world, database_url):
    world.execute("update stripe_subscriptions set user_id = null, claimed_user_id = null")
    for table in ("customers", "checkouts", "payments"):
        world.execute(f"update stripe_{table} set user_id = null")
    world.execute("delete from users where id = %s", [LEARNER])
    before = rows(world)
    code, out, _ = run(database_url, "export-user", USER=LEARNER)
    assert code == 0
    assert [row["stripeSubscriptionId"] for row in json.loads(out)["stripe"]["subscriptions"]] == ["sub_adaword"]
    code, out, _ = run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")
    assert (code, set(out.splitlines())) == (0, counts(LEARNER, before) | {AT_STRIPE, "erased"})
    assert rows(world) == erased(LEARNER, before)


def test_a_row_of_the_write_limit_is_erased_whatever_its_key_is(make_api, world, database_url):
    world.execute("delete from rate_limits")
    api = make_api(RATE_LIMIT_WRITES="10 per minute")
    for user_id in (LEARNER, OTHER):
        ok(mark(api, 0x11, user_id))
    run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")
    [key] = world.execute("select key from rate_limits").fetchall()
    assert OTHER in key[0]


@pytest.fixture
def site_users(world: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """The table users is the site's own, because it has not the comment of this service."""
    [comment] = world.execute("select obj_description('users'::regclass)").fetchone() or ()
    world.execute("comment on table users is null")
    yield world
    world.execute(f"comment on table users is '{comment}'")


@one_plan
def test_where_users_is_the_sites_own_the_row_stays_and_nothing_else(api, site_users, database_url):
    before = rows(site_users)
    code, out, _ = run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")
    assert code == 0
    assert "users: 0, because the table is the site's own; the site removes the row there\n" in out
    assert rows(site_users) == erased(LEARNER, before) | {"users": before["users"]}
    # There is nothing to erase now, but the learner is there.
    assert run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")[0] == 0
    assert_problem(mark(api, 0x11), "not_enrolled")


@pytest.mark.parametrize("deleting", ["no action", "restrict"])
def test_a_table_of_the_sites_that_refers_to_the_learner_is_named_and_nothing_is_removed(world, database_url, deleting):
    world.execute(f"create table orders (user_id uuid references users (id) on delete {deleting})")
    try:
        world.execute("insert into orders values (%s)", [LEARNER])
        before = rows(world)
        for confirm in ({}, {"CONFIRM": "yes"}):
            code, out, err = run(database_url, "erase-user", USER=LEARNER, **confirm)
            assert (code, out) == (1, "")
            assert err == (
                "Error: nothing was removed: the table public.orders refers to this learner in users;"
                " remove its rows of the learner first\n"
            )
        assert rows(world) == before
    finally:
        world.execute("drop table orders")


def test_the_services_role_may_export_and_not_erase(world, environ):
    url = environ["DATABASE_URL"]
    assert run(url, "export-user", USER=LEARNER)[0] == 0
    code, out, err = run(url, "erase-user", USER=LEARNER, CONFIRM="yes")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"Error: permission denied for table \w+\n", err)


@one_plan
def test_the_task_prints_what_the_call_answers(api, world, environ):
    world.execute("update users set name = 'Zoë 🎓 \\ \"x\"'")
    answer = api.get("/api/progress/export", headers=bearer())
    code, out, err = run(environ["DATABASE_URL"], "export-user", USER=LEARNER)
    assert (code, err) == (0, "")
    moment = re.compile('"exportedAt" : "[^"]*"')
    assert moment.sub("", out) == moment.sub("", answer.text)


# Erasing while others write


def erase_in_background(database_url: str) -> Any:
    return in_background(lambda: run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes"))


def test_erasing_waits_for_a_write_and_removes_what_it_stored(world, database_url):
    world.execute("delete from progress")
    before = rows(world)
    with lock_held(database_url) as other, erase_in_background(database_url) as answers:
        wait_until_blocked(world)
        other.execute("insert into progress values (%s, %s, now())", [LEARNER, uuid4(0x11)])
        other.commit()
    assert answers[0][0] == 0
    assert "progress: 1\n" in answers[0][1]
    assert rows(world) == erased(LEARNER, before)


@one_plan
def test_a_write_that_waits_for_erasing_is_refused(api, world, database_url):
    with closing(psycopg.connect(database_url)) as other:
        # Erasing has locked the learner, and waits for this table.
        other.execute("lock table events in share mode")
        with erase_in_background(database_url) as erasing:
            wait_until_blocked(world)
            with in_background(lambda: mark(api, 0x11)) as marked:
                wait_until_blocked(world, 2)
                other.commit()
    assert erasing[0][0] == 0
    assert_problem(marked[0], "not_enrolled")
    assert not [row for row in rows(world)["progress"] if of(LEARNER, row)]


@pytest.mark.parametrize(
    ("stripe_id", "change"),
    [
        ("cus_adaword", "update stripe_subscriptions set status = 'canceled' where customer_id = 'cus_adaword'"),
        ("pi_adaword", "update stripe_reversals set refunded_at = now() where payment_intent_id = 'pi_adaword'"),
        (LEARNER, "update stripe_payments set event_created = now() where source = 'pi_adaword'"),
    ],
)
def test_erasing_waits_for_an_event_of_stripes_without_a_deadlock(world, database_url, stripe_id, change):
    before = rows(world)
    with closing(psycopg.connect(database_url, cursor_factory=psycopg.RawCursor)) as event:
        statements.run(event, "stripe/lock", stripe_id=stripe_id)
        event.execute(change.encode())
        with erase_in_background(database_url) as answers:
            wait_until_blocked(world)
            statements.run(event, "lock", user_id=LEARNER)  # with the learner's row locked, this would be a deadlock
            event.commit()
    assert answers[0][0] == 0
    assert rows(world) == erased(LEARNER, before)


def test_erasing_locks_customers_then_payments_then_the_learner(world, database_url):
    """Each in the order of the ids, as everybody does who locks several of them."""
    for number in (3, 1, 2):
        given = {"user": LEARNER, "number": number}
        world.execute(
            "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id,"
            " session_created) values ('cs_' || %(number)s, 'z_' || %(number)s, 'sub', %(user)s, now())",
            given,
        )
        world.execute(
            "insert into stripe_payments (source, checkout_session_id, claimed_user_id, course_ids, event_created)"
            " values ('a_' || %(number)s, 'cs', %(user)s, '{}', now())",
            given,
        )
    with closing(psycopg.connect(database_url, cursor_factory=psycopg.RawCursor)) as connection:
        locks = statements.run(connection, "admin/erase_locks", user_id=LEARNER).fetchall()
    customers, payments = ["cus_adaword", "z_1", "z_2", "z_3"], ["a_1", "a_2", "a_3", "pi_adaword"]
    assert locks == [*((id, True) for id in customers), *((id, False) for id in (*payments, LEARNER))]


@pytest.mark.usefixtures("site_users")
def test_a_deliverer_that_has_claimed_an_event_finds_nothing_to_record(world, database_url):
    """The learner's row stays, so the deliverer can lock it."""
    world.execute("update events set next_attempt_at = now() where user_id = %s", [LEARNER])
    with closing(
        psycopg.connect(database_url, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row)
    ) as deliverer:
        [claimed] = statements.run(deliverer, "events/claim", limit="1").fetchall()
        assert str(claimed["user_id"]) == LEARNER
        assert run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")[0] == 0
        before = rows(world)
        attempt = {"userId": LEARNER, "id": claimed["id"], "claimedAt": claimed["claimed_at"], "delivered": True}
        with deliverer.transaction():
            [learner] = statements.run(deliverer, "events/lock", user_id=LEARNER).fetchall()
            assert learner["locked"]
            assert statements.run(deliverer, "events/record", attempts=json.dumps([attempt])).fetchall() == []
            statements.run(deliverer, "events/promote", user_ids=f"{{{LEARNER}}}")
    assert rows(world) == before
