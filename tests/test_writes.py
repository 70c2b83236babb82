"""Mark and unmark, contract §3: what is stored, what is kept, what a completedAt may be, the Idempotency-Key."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.calls import reads
from tests.conftest import both_plans, one_plan
from tests.world import (
    LEARNER,
    STRANGER,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    completions,
    get,
    lesson_path,
    mark,
    module_path,
    ok,
    require,
    unmark,
    uuid4,
)

plan_mode = both_plans()


@pytest.fixture
def world(db):
    """A module with the lessons 2, 3 and 4. Lesson 3 locks lesson 4."""
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    require(db, 4, 3)
    return db


def row(db, lesson=2):
    return db.execute(
        "select completed_at, created_at, updated_at from progress where user_id = %s and lesson_id = %s",
        [LEARNER, uuid4(lesson)],
    ).fetchone()


def now(db):
    return db.execute("select clock_timestamp()").fetchone()[0]


def written(lesson, completed_at, completed, total, percent):
    counts = {"percent": percent, "completedCount": completed, "totalCount": total}
    return {
        "lessonId": uuid4(lesson),
        "completed": completed_at is not None,
        "completedAt": completed_at,
        "module": {"moduleId": uuid4(1), **counts},
        "overall": counts,
    }


def shown(time):
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cut(time):
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": ""},
        {"data": "", "content_type": "text/plain"},
        {"data": "", "content_type": "application/json"},
        {"json": {}},
        {"json": {"completedAt": None}},
        {"data": " {\n} ", "content_type": "application/json; charset=utf-8"},
        {"data": "{}", "content_type": "APPLICATION/JSON"},
    ],
)
def test_mark_stores_the_databases_clock_cut_to_the_millisecond(api, world, body):
    before = cut(now(world))
    answer = ok(mark(api, 2, **body))
    completed_at, created_at, updated_at = row(world)
    assert before <= completed_at <= now(world)
    assert completed_at == cut(completed_at)
    assert before <= created_at <= now(world)
    assert before <= updated_at <= now(world)
    assert answer == written(2, shown(completed_at), 1, 2, 50)


def test_mark_stores_the_time_that_is_given(api, world):
    answer = ok(mark(api, 2, json={"completedAt": "2026-02-03T04:05:06.789Z"}))
    assert answer == written(2, "2026-02-03T04:05:06.789Z", 1, 2, 50)
    assert completions(world) == [(LEARNER, uuid4(2), datetime(2026, 2, 3, 4, 5, 6, 789000))]


@pytest.mark.parametrize(
    "body", [{}, {"json": {}}, {"json": {"completedAt": None}}, {"json": {"completedAt": "2020-01-01T00:00:00Z"}}]
)
def test_a_second_mark_keeps_completed_at_and_changes_updated_at(api, world, body):
    complete(world, 2, at="2026-02-03T04:05:06.789123Z")
    before = row(world)
    answer = ok(mark(api, 2, **body))
    after = row(world)
    assert answer == written(2, "2026-02-03T04:05:06.789Z", 1, 2, 50)
    assert after[:2] == before[:2]
    assert after[2] > before[2]


def test_every_mark_changes_updated_at(api, world):
    rows = []
    for _ in range(3):
        mark(api, 2)
        rows.append(row(world))
    assert len({(completed_at, created_at) for completed_at, created_at, _ in rows}) == 1
    assert rows[0][2] < rows[1][2] < rows[2][2]


@one_plan
def test_a_second_mark_with_a_wrong_body_is_refused_all_the_same(api, world):
    complete(world, 2)
    before = row(world)
    assert_problem(
        mark(api, 2, json={"completedAt": "yesterday"}),
        "invalid_body",
        errors={
            "completedAt": ["Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."]
        },
    )
    assert row(world) == before


def test_unmark_deletes_and_a_mark_after_it_begins_anew(api, world):
    complete(world, 2)
    assert ok(unmark(api, 2)) == written(2, None, 0, 2, 0)
    assert completions(world) == []
    answer = ok(mark(api, 2, json={"completedAt": "2020-01-01T00:00:00Z"}))
    assert answer == written(2, "2020-01-01T00:00:00.000Z", 1, 2, 50)


def test_unmarking_what_is_not_marked_succeeds(api, world):
    for _ in range(2):
        assert ok(unmark(api, 2)) == written(2, None, 0, 2, 0)


def test_unmark_of_a_locked_lesson_is_never_409(api, world):
    assert ok(unmark(api, 4)) == written(4, None, 0, 2, 0)
    complete(world, 4)
    assert ok(unmark(api, 4)) == written(4, None, 0, 2, 0)
    assert completions(world) == []


def test_a_write_touches_no_other_row(api, world):
    add_user(world, STRANGER)
    complete(world, 2, 3, user_id=STRANGER)
    complete(world, 3)
    others = "select * from progress where (user_id, lesson_id) != (%s, %s) order by user_id, lesson_id"
    before = world.execute(others, [LEARNER, uuid4(2)]).fetchall()
    mark(api, 2)
    unmark(api, 2)
    unmark(api, 2)
    assert world.execute(others, [LEARNER, uuid4(2)]).fetchall() == before


def test_a_completed_lesson_can_be_marked_again_though_its_prerequisite_is_not_completed(api, world):
    complete(world, 4)
    assert ok(mark(api, 4)) == written(4, "2026-01-01T00:00:00.000Z", 1, 3, 33)


def test_the_answer_contains_the_write(api, world):
    assert_problem(mark(api, 4), "lesson_locked", prerequisites=[uuid4(3)])
    assert ok(mark(api, 3))["module"] == {"moduleId": uuid4(1), "percent": 33, "completedCount": 1, "totalCount": 3}
    assert ok(mark(api, 4))["module"] == {"moduleId": uuid4(1), "percent": 66, "completedCount": 2, "totalCount": 3}
    assert ok(unmark(api, 3))["module"] == {"moduleId": uuid4(1), "percent": 33, "completedCount": 1, "totalCount": 3}
    assert ok(unmark(api, 4))["module"] == {"moduleId": uuid4(1), "percent": 0, "completedCount": 0, "totalCount": 2}
    assert_problem(mark(api, 4), "lesson_locked", prerequisites=[uuid4(3)])


def test_the_answer_counts_the_lessons_own_module_and_all_of_them(api, world):
    add_module(world, 5, 6, 7, 8, 9)
    complete(world, 6)
    answer = ok(mark(api, 2))
    assert answer["module"] == {"moduleId": uuid4(1), "percent": 50, "completedCount": 1, "totalCount": 2}
    assert answer["overall"] == {"percent": 33, "completedCount": 2, "totalCount": 6}
    assert answer["overall"] == get(api, "summary")
    of_module = get(api, module_path(1))
    assert answer["module"] == {key: of_module[key] for key in answer["module"]}


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2026-02-03T04:05:06Z", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03t04:05:06z", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03T04:05:06z", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03T04:05:06.1Z", "2026-02-03T04:05:06.100Z"),
        ("2026-02-03T04:05:06.12Z", "2026-02-03T04:05:06.120Z"),
        ("2026-02-03T04:05:06.9999Z", "2026-02-03T04:05:06.999Z"),
        ("2026-02-03T04:05:06.999999999999Z", "2026-02-03T04:05:06.999Z"),
        ("2026-02-03T04:05:06." + "9" * 1000 + "Z", "2026-02-03T04:05:06.999Z"),
        ("2026-02-03T04:05:06.000Z", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03T04:05:06+00:00", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03T04:05:06-00:00", "2026-02-03T04:05:06.000Z"),
        ("2026-02-03T04:05:06.5+02:00", "2026-02-03T02:05:06.500Z"),
        ("2026-02-03T04:05:06-09:30", "2026-02-03T13:35:06.000Z"),
        ("2026-01-01T00:00:00+00:01", "2025-12-31T23:59:00.000Z"),
        ("2026-01-01T00:00:00+23:59", "2025-12-31T00:01:00.000Z"),
        ("2025-12-31T00:00:00-23:59", "2025-12-31T23:59:00.000Z"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000Z"),
        # To a clock without leap seconds, this one is the first instant of the next day.
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ("2015-06-30T23:59:60.25Z", "2015-07-01T00:00:00.250Z"),
        ("2017-01-01T00:59:60+01:00", "2017-01-01T00:00:00.000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T00:00:00.0001Z", "1970-01-01T00:00:00.000Z"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00.000Z"),
    ],
)
@one_plan
def test_completed_at_is_converted_to_utc_and_cut_to_the_millisecond(api, world, text, stored):
    assert ok(mark(api, 2, json={"completedAt": text}))["completedAt"] == stored
    assert shown(row(world)[0]) == stored
    assert row(world)[0] == cut(row(world)[0])


FORM = "Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."
EARLY = "Must not be before 1970-01-01T00:00:00Z."
NO_STRINGS: list[Any] = [0, 1770091506, 1770091506.5, True, False, [], {}, [None]]
LATE = "Must not be more than five minutes in the future."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *(
            (text, EARLY)
            for text in ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z")
        ),
        ("1970-01-01T00:59:59.999+01:00", EARLY),
        ("1969-12-31T22:59:59-01:00", EARLY),
        ("0002-01-01T00:00:00+23:59", EARLY),
        ("0001-01-01T00:00:00-00:01", EARLY),
        *(
            (text, LATE)
            for text in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999Z", "2999-01-01T00:00:00+01:00")
        ),
        *((text, FORM) for text in ("9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60Z")),  # in UTC, the year is 10000
        *((text, FORM) for text in ("0000-01-01T00:00:00Z", "0000-12-31T23:59:59-23:59", "0001-01-01T00:00:00+00:01")),
        *((text, FORM) for text in ("10000-01-01T00:00:00Z", "+2026-02-03T04:05:06Z", "-0001-02-03T04:05:06Z")),
        *(
            (text, FORM)
            for text in ("", "now", "today", "2026", "2026-02-03", "2026-02-03Z", "04:05:06Z", "T04:05:06Z")
        ),
        ("2026-02-03T04:05:06", FORM),  # without an offset
        ("2026-02-03T04:05:06.789", FORM),
        ("2026-02-03 04:05:06Z", FORM),
        ("2026-02-03_04:05:06Z", FORM),
        ("20260203T040506Z", FORM),
        ("2026-02-03T040506Z", FORM),
        ("20260203T04:05:06Z", FORM),
        ("2026-02-03T04:05:06,789Z", FORM),
        ("2026-02-03T04:05:06.Z", FORM),
        ("2026-02-03T04:05.5Z", FORM),
        ("2026-02-03T04:05Z", FORM),
        ("2026-02-03T04Z", FORM),
        ("2026-W06-2T04:05:06Z", FORM),
        ("2026-034T04:05:06Z", FORM),
        ("26-02-03T04:05:06Z", FORM),
        ("2026-2-3T4:5:6Z", FORM),
        ("2026-02-03T24:00:00Z", FORM),
        ("2026-02-03T25:00:00Z", FORM),
        ("2026-02-03T04:60:00Z", FORM),
        ("2026-02-03T04:05:61Z", FORM),
        ("2026-02-03T04:05:60Z", FORM),
        ("2016-12-31T23:59:60+01:00", FORM),  # this is 22:59:60 in UTC, which is no leap second
        ("2016-12-30T23:59:60Z", FORM),
        ("2026-02-29T00:00:00Z", FORM),
        ("1900-02-29T00:00:00Z", FORM),
        ("2026-04-31T00:00:00Z", FORM),
        ("2026-00-01T00:00:00Z", FORM),
        ("2026-13-01T00:00:00Z", FORM),
        ("2026-01-00T00:00:00Z", FORM),
        ("2026-02-03T04:05:06+24:00", FORM),
        ("2026-02-03T04:05:06-24:00", FORM),
        ("2026-02-03T04:05:06+00:60", FORM),
        ("2026-02-03T04:05:06+00:99", FORM),
        ("2026-02-03T04:05:06+0100", FORM),
        ("2026-02-03T04:05:06+01", FORM),
        ("2026-02-03T04:05:06+1:00", FORM),
        ("2026-02-03T04:05:06+01:00:00", FORM),
        ("2026-02-03T04:05:06+01:00.5", FORM),
        ("2026-02-03T04:05:06\u221201:00", FORM),  # a true minus sign
        ("2026-02-03T04:05:06 +01:00", FORM),
        ("2026-02-03T04:05:06 Z", FORM),
        ("2026-02-03T04:05:06ZZ", FORM),
        ("2026-02-03T04:05:06Z+00:00", FORM),
        ("2026-02-03T04:05:06UTC", FORM),
        ("2026-02-03T04:05:06+00:00[UTC]", FORM),
        ("\u0662\u0660\u0662\u0666-02-03T04:05:06Z", FORM),  # Arabic-Indic digits
        ("2026-02-03T04:05:0\uff16Z", FORM),  # a full-width digit
        ("2026\u201002\u201003T04:05:06Z", FORM),  # typographic hyphens
        (" 2026-02-03T04:05:06Z", FORM),
        ("2026-02-03T04:05:06Z ", FORM),
        ("2026-02-03T04:05:06Z\n", FORM),
        ("\n2026-02-03T04:05:06Z", FORM),
        ("2026-02-03T04:05:06Z\u0000", FORM),
        ("\ufeff2026-02-03T04:05:06Z", FORM),
        ("\ud800", FORM),
        ("1770091506", FORM),
        ("2026-02-03T04:05:06Z" * 500, FORM),
        *((value, "Must be a string.") for value in NO_STRINGS),
    ],
)
@one_plan
def test_any_other_completed_at_is_refused(api, world, value, message):
    assert_problem(mark(api, 2, json={"completedAt": value}), "invalid_body", errors={"completedAt": [message]})
    assert completions(world) == []


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(minutes=4, seconds=50)])
def test_within_five_minutes_of_the_future_it_is_stored_as_now(api, world, ahead):
    before = cut(now(world))
    answer = ok(mark(api, 2, json={"completedAt": (datetime.now(UTC) + ahead).isoformat()}))
    assert before <= row(world)[0] <= now(world)
    assert answer == written(2, shown(row(world)[0]), 1, 2, 50)


@pytest.mark.parametrize("ahead", [timedelta(minutes=5, seconds=5), timedelta(hours=1), timedelta(days=365)])
@one_plan
def test_more_than_five_minutes_in_the_future_is_refused(api, world, ahead):
    body = {"completedAt": (datetime.now(UTC) + ahead).isoformat()}
    assert_problem(mark(api, 2, json=body), "invalid_body", errors={"completedAt": [LATE]})
    assert completions(world) == []


@one_plan
def test_the_offset_is_part_of_what_lies_in_the_future(api, world):
    local = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
    assert_problem(mark(api, 2, json={"completedAt": f"{local}-00:06"}), "invalid_body", errors={"completedAt": [LATE]})
    ok(mark(api, 2, json={"completedAt": f"{local}+00:06"}))


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"completedAt": "nonsense", "more": 1}},
        {"data": b"\xff not JSON \x00", "content_type": "application/json"},
        {"data": "a=b", "content_type": "application/x-www-form-urlencoded"},
        {"data": "x" * 16384, "content_type": "text/plain"},
    ],
)
@one_plan
def test_unmark_takes_no_notice_of_a_body(api, world, body):
    complete(world, 2)
    assert ok(unmark(api, 2, **body)) == written(2, None, 0, 2, 0)


KEYS = ["k", "!", "~", "a" * 255, "8a0f6b1e-0000-4000-8000-000000000000", '"quoted"', "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"]
NO_KEYS = ["", " ", "a b", "a" * 256, "a\tb", "\x7f", "é", "\x80", " a", "a ", "a" * 5000]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("write", [mark, unmark])
@one_plan
def test_the_idempotency_key_is_echoed(api, world, write, key):
    answer = write(api, 2, headers={"Idempotency-Key": key})
    assert ok(answer)["lessonId"] == uuid4(2)
    assert answer.headers.getlist("Idempotency-Key") == [key]


@pytest.mark.parametrize("write", [mark, unmark])
@one_plan
def test_without_a_key_none_is_echoed(api, world, write):
    assert "Idempotency-Key" not in write(api, 2).headers


@pytest.mark.parametrize("key", NO_KEYS)
@pytest.mark.parametrize("write", [mark, unmark])
@one_plan
def test_a_wrong_key_is_refused_and_not_echoed(api, world, write, key):
    complete(world, 3)
    before = completions(world)
    answer = write(api, 2, headers={"Idempotency-Key": key})
    assert_problem(answer, "invalid_idempotency_key")
    assert "Idempotency-Key" not in answer.headers
    assert completions(world) == before


@one_plan
def test_the_key_is_echoed_on_errors_too(api, world):
    add_lesson(world, 1, 5, published=False)
    add_user(world, STRANGER, access=None)
    key = {"Idempotency-Key": "the-key"}
    json_body = {"content_type": "application/json"}

    def check(answer, code, **members):
        assert_problem(answer, code, **members)
        assert answer.headers["Idempotency-Key"] == "the-key"

    for write, method in ((mark, "POST"), (unmark, "DELETE")):
        check(api.open(lesson_path(2), method=method, headers=key), "unauthenticated")
        bad = api.open("/api/progress/lessons/bad", method=method, headers=bearer() | key)
        check(bad, "invalid_lesson_id")
        check(write(api, 2, headers=key, data=b" " * 16385, **json_body), "body_too_large")
        check(write(api, 2, STRANGER, headers=key), "not_enrolled")
        check(write(api, 99, headers=key), "lesson_not_found")
        check(write(api, 5, headers=key), "lesson_not_available")
    check(mark(api, 2, headers=key, data="{}", content_type="text/plain"), "unsupported_media_type")
    check(mark(api, 2, headers=key, data="[]", **json_body), "invalid_body", errors={})
    check(mark(api, 4, headers=key), "lesson_locked", prerequisites=[uuid4(3)])


@one_plan
def test_a_wrong_key_is_not_echoed_on_an_error_that_comes_first(api, world):
    for key in NO_KEYS:
        answer = api.post(lesson_path(2), headers={"Idempotency-Key": key})
        assert_problem(answer, "unauthenticated")
        assert "Idempotency-Key" not in answer.headers


@one_plan
def test_the_key_is_a_writes_alone(api, world):
    for path in reads():
        for key in ("the-key", "not a key"):
            answer = api.get(f"/api/progress/{path}", headers=bearer() | {"Idempotency-Key": key})
            ok(answer)
            assert "Idempotency-Key" not in answer.headers


def test_the_same_key_again_is_another_write(api, world):
    key = {"Idempotency-Key": "the-key"}
    first = ok(mark(api, 2, headers=key))
    assert ok(mark(api, 2, headers=key)) == first
    assert ok(unmark(api, 2, headers=key)) == written(2, None, 0, 2, 0)
    assert ok(mark(api, 3, headers=key))["lessonId"] == uuid4(3)


@one_plan
def test_a_json_type_with_a_suffix_is_json(api, world):
    body = json.dumps({"completedAt": "2026-02-03T04:05:06Z"})
    answer = mark(api, 2, data=body, content_type="application/merge-patch+json")
    assert ok(answer)["completedAt"] == "2026-02-03T04:05:06.000Z"
