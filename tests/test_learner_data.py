"""A learner's data, contract §8: the export has all of it and nothing else."""

import json
import re
from typing import Any

import psycopg
import pytest

from tests.conftest import both_plans
from tests.world import (
    LEARNER,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    bearer,
    get,
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
    "stripe_subscriptions": ("stripe.subscriptions", set()),
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


def test_a_time_without_an_end_is_shown_as_it_is_stored(api, world):
    world.execute("update enrollments set expires_at = 'infinity'")
    world.execute("update course_enrollments set expires_at = '-infinity'")
    world.execute("update subscriptions set current_period_end = null, mirrored_period_end = '-infinity'")
    access = get(api, "export")["access"]
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
        (None, None, [], LEARNER, LEARNER),
        (None, NOBODY, [LEARNER], OTHER, NOBODY),
        (None, None, [], None, None),
    ],
    ids=["owned", "claimed", "first_session", "another_first", "customer", "claimed_by_nobody", "unnamed"],
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
    # The first session has the later id. A session of another subscription does not count.
    for number, named in enumerate(sessions):
        world.execute(
            "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id,"
            " session_created) values (%s, 'cus_1', 'sub_1', %s, to_timestamp(%s))",
            [f"cs_{9 - number}", named, number],
        )
    world.execute(
        "insert into stripe_checkouts (checkout_session_id, customer_id, stripe_subscription_id, claimed_user_id,"
        " session_created) values ('cs_0', 'cus_1', 'sub_2', %s, to_timestamp(0))",
        [uuid4(0x98)],
    )
    if customer:
        world.execute(
            "insert into stripe_customers (customer_id, claimed_user_id, event_created) values ('cus_1', %s, now())",
            [customer],
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
