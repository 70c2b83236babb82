"""Many marks in one call, contract §3: what is marked, what is refused, what is answered."""

import http.client
import itertools
import json
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from app.database.statements import STATEMENTS, Statement
from tests.conftest import both_plans, one_plan
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    SECRET,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    completions,
    cookie,
    get,
    mark,
    ok,
    require,
    token,
    uuid4,
)

plan_mode = both_plans()

PATH = "/api/progress/lessons"
AT = "2026-02-03T04:05:06.789Z"


@pytest.fixture
def world(db):
    """Module 1 is in course 9. Lesson 4 needs 3, and 3 needs 2. Module 7 has lesson 8, and lesson 6 is unpublished."""
    add_user(db)
    add_user(db, FREE_LEARNER, access="free")
    add_user(db, STRANGER, access=None)
    add_module(db, 1, 2, 3, 4)
    add_module(db, 7, 8)
    add_lesson(db, 7, 6, published=False)
    add_lesson(db, 7, 5, is_free=True)
    add_course(db, 9, 1)
    require(db, 3, 2)
    require(db, 4, 3)
    return db


def mark_lessons(api, *lessons: int, user_id: str = LEARNER, at: str | None = AT) -> Any:
    """Mark lessons uuid4(lesson), all as completed at `at`."""
    listed = [{"lessonId": uuid4(lesson), "completedAt": at} for lesson in lessons]
    return api.post(PATH, headers=bearer(user_id), json={"lessons": listed})


def marked(lesson: int, at: str = AT) -> dict[str, Any]:
    return {"lessonId": uuid4(lesson), "completed": True, "completedAt": at}


def refused(lesson: int, code: str, *prerequisites: int) -> dict[str, Any]:
    due = {"prerequisites": [uuid4(one) for one in prerequisites]} if prerequisites else {}
    return {"lessonId": uuid4(lesson), "completed": False, "code": code, **due}


def results(api, *lessons: int, **options: Any) -> Any:
    return ok(mark_lessons(api, *lessons, **options))["results"]


def completed(db, user_id: str = LEARNER) -> list[int]:
    return [int(lesson[:8], 16) for learner, lesson, _ in completions(db) if learner == user_id]


def test_the_whole_answer(api, world):
    answer = ok(mark_lessons(api, 8, 4, 0x99, 2, 6, 3))
    outcomes = [marked(8), marked(4), refused(0x99, "lesson_not_found"), marked(2)]
    outcomes += [refused(6, "lesson_not_available"), marked(3)]
    half = {"percent": 50, "completedCount": 1, "totalCount": 2}
    done = {"percent": 100, "completedCount": 3, "totalCount": 3}
    assert answer == {
        "results": outcomes,
        "modules": [{"moduleId": uuid4(7), **half}, {"moduleId": uuid4(1), **done}],
        "courses": [{"courseId": uuid4(9), **done}],
        "overall": {"percent": 80, "completedCount": 4, "totalCount": 5},
        "completions": [
            {"moduleId": uuid4(1), "completedAt": "2026-02-03T04:05:06.789Z"},
            {"courseId": uuid4(9), "completedAt": "2026-02-03T04:05:06.789Z"},
        ],
    }
    at = datetime(2026, 2, 3, 4, 5, 6, 789000)
    assert completions(world) == [(LEARNER, uuid4(lesson), at) for lesson in (2, 3, 4, 8)]


def test_the_counts_are_those_of_the_next_reads(api, world):
    add_course(world, 0xA, 7)
    complete(world, 5)
    answer = ok(mark_lessons(api, 8, 2))
    assert answer["overall"] == get(api, "summary")
    assert answer["modules"] == get(api, "modules")["modules"]
    courses = get(api, "courses")["courses"]
    assert answer["courses"] == [
        {name: course[name] for name in ("courseId", "percent", "completedCount", "totalCount")} for course in courses
    ]
    assert [module["moduleId"] for module in answer["modules"]] == [uuid4(1), uuid4(7)]
    assert [course["courseId"] for course in answer["courses"]] == [uuid4(9), uuid4(0xA)]


@pytest.mark.parametrize("order", [*itertools.permutations([2, 3, 4])])
def test_the_order_of_the_list_does_not_matter(api, world, order):
    assert results(api, *order) == [marked(lesson) for lesson in order]
    assert completed(world) == [2, 3, 4]


def test_only_modules_and_courses_of_marked_lessons_are_counted(api, world):
    complete(world, 8)
    answer = ok(mark_lessons(api, 4, 5))
    assert answer["results"] == [refused(4, "lesson_locked", 3), marked(5)]
    assert [module["moduleId"] for module in answer["modules"]] == [uuid4(7)]
    assert answer["courses"] == []


def test_a_list_of_which_nothing_can_be_marked_is_answered_all_the_same(api, world):
    answer = ok(mark_lessons(api, 4, 6, 0x99))
    codes = [refused(4, "lesson_locked", 3), refused(6, "lesson_not_available"), refused(0x99, "lesson_not_found")]
    counts = {"percent": 0, "completedCount": 0, "totalCount": 3}
    assert answer == {"results": codes, "modules": [], "courses": [], "overall": counts}
    assert completed(world) == []


def test_a_second_call_keeps_completed_at_and_changes_updated_at(api, world):
    complete(world, 2, at="2026-01-01T00:00:00.123456Z")
    query = "select lesson_id::text, completed_at, created_at, updated_at from progress order by 1"
    (before,) = world.execute(query).fetchall()
    answer = ok(mark_lessons(api, 3, 2))
    assert answer["results"] == [marked(3), marked(2, "2026-01-01T00:00:00.123Z")]
    first = world.execute(query).fetchall()
    assert first[0][:3] == before[:3]
    assert first[0][3] > before[3]
    assert ok(mark_lessons(api, 3, 2, at=None)) == answer
    second = world.execute(query).fetchall()
    assert [row[:3] for row in second] == [row[:3] for row in first]
    assert all(later[3] > earlier[3] for earlier, later in zip(first, second, strict=True))


@pytest.mark.parametrize("at", [None, timedelta(minutes=4)])
def test_without_a_time_or_with_one_that_is_soon_the_lesson_is_completed_now(api, world, at):
    query = "select clock_timestamp() - '1 ms'::interval"
    (before,) = world.execute(query).fetchone()
    (result,) = results(api, 2, at=at and (datetime.now(UTC) + at).isoformat())
    (row,) = world.execute("select completed_at from progress").fetchone()
    (after,) = world.execute("select clock_timestamp()").fetchone()
    assert before < row <= after
    assert row == datetime.fromisoformat(result["completedAt"])


def test_each_lesson_has_its_own_time_in_utc_cut_to_the_millisecond(api, world):
    times = {8: "2026-02-03T05:05:06.7899+01:00", 2: "2020-01-01t00:00:00z", 5: "1970-01-01T00:00:00Z"}
    listed = [{"lessonId": uuid4(lesson), "completedAt": at} for lesson, at in times.items()]
    answer = ok(api.post(PATH, headers=bearer(), json={"lessons": listed}))
    assert answer["results"] == [
        marked(8),
        marked(2, "2020-01-01T00:00:00.000Z"),
        marked(5, "1970-01-01T00:00:00.000Z"),
    ]


def test_ids_may_be_in_any_letter_case_and_are_answered_in_lower_case(api, db):
    add_user(db)
    add_module(db, 1, 0xABC)
    listed = [{"lessonId": uuid4(0xABC).upper(), "completedAt": AT}]
    assert ok(api.post(PATH, headers=bearer(), json={"lessons": listed}))["results"] == [marked(0xABC)]


# What can be marked


def test_what_is_still_due_is_told_in_catalog_order_without_what_the_call_has_marked(api, world):
    add_module(world, 0xA, 0xB, 0xC, position=0)
    require(world, 8, 2, 0xC, 4, 6, 0xB)  # lesson 6 is unpublished
    complete(world, 0xB)
    assert results(api, 8, 2) == [refused(8, "lesson_locked", 0xC, 4), marked(2)]
    assert completed(world) == [2, 0xB]


def test_what_is_still_due_is_in_catalog_order_where_positions_are_equal_too(api, db):
    add_user(db)
    modules = [  # in catalog order: the module, its course, its position, its lessons
        (0x13, None, 2, [0x2A, 0x23]),
        (0x11, None, 3, [0x29]),
        (0x12, None, 3, [0x28]),
        (0x15, 0x32, 1, [0x27]),
        (0x10, 0x33, 1, [0x22, 0x26]),
        (0x14, 0x31, 0, [0x24, 0x21]),
    ]
    for module, _, position, lessons in modules[::-1]:
        add_module(db, module, position=position)
        for lesson in lessons[::-1]:
            # Those of module 0x10 have one position, so their ids decide.
            add_lesson(db, module, lesson, position=1 if module == 0x10 else lessons.index(lesson))
    for course, position in ((0x33, 1), (0x32, 1), (0x31, 2)):
        add_course(db, course, *(module for module, its, *_ in modules if its == course), position=position)
    due = [lesson for *_, lessons in modules for lesson in lessons]
    add_module(db, 1, 2)
    require(db, 2, *sorted(due, key=lambda lesson: lesson * 7 % 11))
    assert results(api, 2) == [refused(2, "lesson_locked", *due)]
    answer = ok(mark_lessons(api, *due))
    ids = [uuid4(module) for module, *_ in modules]
    assert [module["moduleId"] for module in answer["modules"]] == ids
    assert [course["courseId"] for course in answer["courses"]] == [uuid4(0x32), uuid4(0x33), uuid4(0x31)]


def test_a_lesson_stays_locked_behind_one_that_is_locked(api, world):
    assert results(api, 4, 3, 8) == [refused(4, "lesson_locked", 3), refused(3, "lesson_locked", 2), marked(8)]


def test_a_lesson_that_needs_two_waits_for_both(api, world):
    require(world, 8, 5, 4)
    assert results(api, 8, 5) == [refused(8, "lesson_locked", 4), marked(5)]
    assert results(api, 4, 8, 3, 2) == [marked(4), marked(8), marked(3), marked(2)]


def test_a_lesson_that_waits_for_one_outside_the_list_keeps_no_other_from_being_marked(api, world):
    require(world, 8, 5, 2)
    require(world, 2, 5)
    add_module(world, 0xA, 0xB, 0xC)
    require(world, 0xB, 0xC)
    assert results(api, 3, 0xB, 5, 8, 2) == [marked(3), refused(0xB, "lesson_locked", 0xC), *map(marked, (5, 8, 2))]


def test_an_unpublished_prerequisite_locks_nothing(api, world):
    require(world, 8, 6)
    assert results(api, 8) == [marked(8)]


def test_a_completed_lesson_is_kept_and_unlocks_others_whatever_it_needs_now(api, world):
    complete(world, 3, at=AT)
    assert results(api, 4, 3) == [marked(4), marked(3)]
    assert completed(world) == [3, 4]


def test_a_completed_lesson_that_is_not_available_is_refused_and_still_unlocks_others(api, world):
    world.execute("update lessons set is_free = true where id = %s", [uuid4(4)])
    complete(world, 3, user_id=FREE_LEARNER, at=AT)
    answer = ok(mark_lessons(api, 3, 4, user_id=FREE_LEARNER))
    assert answer["results"] == [refused(3, "lesson_not_available"), marked(4)]
    assert answer["modules"] == [{"moduleId": uuid4(1), "percent": 100, "completedCount": 1, "totalCount": 1}]


def test_an_unavailable_lesson_of_the_list_unlocks_nothing(api, world):
    world.execute("update lessons set is_free = true where id = %s", [uuid4(3)])
    found = results(api, 2, 3, user_id=FREE_LEARNER)
    assert found == [refused(2, "lesson_not_available"), refused(3, "lesson_locked", 2)]


def test_lessons_that_need_each_other_stay_locked_as_single_marks_leave_them(api, world):
    require(world, 2, 4)  # 2, 3 and 4 are a cycle now
    require(world, 8, 4)
    require(world, 5, 8)
    codes = [refused(lesson, "lesson_locked", needed) for lesson, needed in ((8, 4), (2, 4), (3, 2), (4, 3), (5, 8))]
    assert results(api, 8, 2, 3, 4, 5) == codes
    assert [mark(api, lesson).get_json()["code"] for lesson in (2, 3, 4)] == ["lesson_locked"] * 3
    # Where one of them is completed already, the others follow.
    complete(world, 3, at=AT)
    assert results(api, 8, 2, 3, 4, 5) == [marked(lesson) for lesson in (8, 2, 3, 4, 5)]


def test_somebody_elses_completions_unlock_nothing(api, world):
    complete(world, 2, 3, user_id=FREE_LEARNER)
    assert results(api, 3) == [refused(3, "lesson_locked", 2)]


# What the lesson at each place of an order needs: places before it. With "pairs", 2 to the power of 249 ways lead from
# the first lesson to the last ones, and the statement must not follow each.
SHAPES: dict[str, Callable[[int, random.Random], list[int]]] = {
    "chain": lambda place, _: [place - 1],
    "three each": lambda place, draw: draw.choices(range(place), k=3),
    "pairs": lambda place, _: [place // 2 * 2 - 2, place // 2 * 2 - 1] if place > 1 else [],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_500_lessons_in_random_order_are_marked_in_one_call(api, db, shape):
    draw = random.Random(22)
    lessons = list(range(0x100, 0x100 + 500))
    draw.shuffle(lessons)
    add_user(db)
    add_module(db, 1, *lessons[:250])
    add_module(db, 2, *lessons[250:])
    pairs = {
        (uuid4(lessons[place]), uuid4(lessons[needed]))
        for place in range(1, 500)
        for needed in SHAPES[shape](place, draw)
    }
    db.cursor().executemany("insert into lesson_prerequisites values (%s, %s)", list(pairs))
    draw.shuffle(lessons)
    answer = ok(mark_lessons(api, *lessons))
    assert answer["results"] == [marked(lesson) for lesson in lessons]
    assert answer["overall"] == {"percent": 100, "completedCount": 500, "totalCount": 500} == get(api, "summary")
    assert answer["modules"] == get(api, "modules")["modules"]


# The body

LESSON = {"lessonId": uuid4(2)}
TIME = ["Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."]
ID = ["Must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."]
MISSING = ["Missing data for required field."]
SIZE = ["Must have 1 to 500 lessons."]
UNKNOWN = ["Unknown field."]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"lessons": MISSING}),
        ({"lessons": None}, {"lessons": ["Field may not be null."]}),
        *(({"lessons": value}, {"lessons": ["Must be a list."]}) for value in (1, "x", {"0": LESSON}, True)),
        ({"lessons": []}, {"lessons": SIZE}),
        ({"lessons": [{"lessonId": uuid4(lesson)} for lesson in range(501)]}, {"lessons": SIZE}),
        ({"lessons": [1] * 20_000}, {"lessons": SIZE}),
        *(({"lessons": [value]}, {"lessons": {"0": ["Must be a JSON object."]}}) for value in (None, 1, "x", [LESSON])),
        ({"lessons": [{}]}, {"lessons": {"0": {"lessonId": MISSING}}}),
        ({"lessons": [{"lessonId": None}]}, {"lessons": {"0": {"lessonId": ["Field may not be null."]}}}),
        *(
            ({"lessons": [LESSON, {"lessonId": value}]}, {"lessons": {"1": {"lessonId": ID}}})
            for value in (
                1,
                "",
                "x",
                True,
                [uuid4(3)],
                uuid4(3) + "\n",
                "{" + uuid4(3) + "}",
                uuid4(3).replace("-", ""),
            )
        ),
        ({"lessons": [{"lessonId": "00000003-0000-1000-8000-000000000000"}]}, {"lessons": {"0": {"lessonId": ID}}}),
        ({"lessons": [LESSON | {"note": 1}]}, {"lessons": {"0": {"note": UNKNOWN}}}),
        ({"lessons": [LESSON], "completedAt": AT}, {"completedAt": UNKNOWN}),
        ({"lessons": [LESSON | {"completedAt": "yesterday"}]}, {"lessons": {"0": {"completedAt": TIME}}}),
        (
            {"lessons": [LESSON, {"lessonId": uuid4(3)}, LESSON, LESSON | {"completedAt": "x"}]},
            {
                "lessons": {
                    "2": {"lessonId": ["Is the lesson of entry 0 already."]},
                    "3": {"completedAt": TIME, "lessonId": ["Is the lesson of entry 0 already."]},
                }
            },
        ),
        (  # the later entry is at fault, even if the earlier one has a fault of its own
            {"lessons": [LESSON | {"completedAt": 1}, LESSON]},
            {
                "lessons": {
                    "0": {"completedAt": ["Must be a string."]},
                    "1": {"lessonId": ["Is the lesson of entry 0 already."]},
                }
            },
        ),
    ],
)
@one_plan
def test_a_wrong_body_is_refused_with_the_place_of_each_fault_and_nothing_is_marked(api, world, body, errors):
    assert_problem(api.post(PATH, headers=bearer(), json=body), "invalid_body", errors=errors)
    assert completions(world) == []


@one_plan
def test_one_lesson_in_two_letter_cases_is_in_the_list_twice(api, db):
    add_user(db)
    listed = [{"lessonId": uuid4(0xAB)}, {"lessonId": uuid4(0xAB).upper()}]
    errors = {"lessons": {"1": {"lessonId": ["Is the lesson of entry 0 already."]}}}
    assert_problem(api.post(PATH, headers=bearer(), json={"lessons": listed}), "invalid_body", errors=errors)


@one_plan
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": b""},
        {"data": b"", "content_type": "text/plain"},
        {"data": b"{}", "content_type": "application/json"},
    ],
)
def test_no_body_is_as_an_empty_object(api, world, body):
    assert_problem(api.post(PATH, headers=bearer(), **body), "invalid_body", errors={"lessons": MISSING})


@one_plan
@pytest.mark.parametrize("data", [b"[1]", b"null", b"{", b"\xff", b'{"lessons": [', b"[" * 60_000])
def test_a_body_that_is_no_json_object_is_refused(api, world, data):
    answer = api.post(PATH, headers=bearer(), data=data, content_type="application/json")
    assert_problem(answer, "invalid_body", errors={})


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_have_64_kib_and_not_a_byte_more(service_url, world, chunked):
    body = json.dumps({"lessons": [LESSON | {"completedAt": AT}]}).encode()
    for size, status in ((65536, 200), (65537, 413), (200_000, 413)):
        data = body + b" " * (size - len(body))
        connection = http.client.HTTPConnection(urlsplit(service_url).netloc, timeout=30)
        headers = bearer() | {"Content-Type": "application/json"}
        connection.request("POST", PATH, iter([data]) if chunked else data, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        assert answer.status == status
        if status == 413:
            assert json.loads(answer.read())["detail"] == "Send a body of 64 KiB at most."
        connection.close()


@one_plan
def test_of_a_body_of_another_type_the_detail_does_not_advise_to_send_none(api, world):
    """Without a body, this call is an error too."""
    answer = api.post(PATH, headers=bearer(), data=b"{}", content_type="text/plain")
    assert_problem(answer, "unsupported_media_type")
    assert answer.get_json()["detail"] == "Send the body as Content-Type: application/json."


@one_plan
def test_the_largest_list_with_its_times_fits_into_a_body(api, world):
    listed = [{"lessonId": uuid4(lesson), "completedAt": "2026-02-03T04:05:06.789+00:00"} for lesson in range(500)]
    assert len(json.dumps({"lessons": listed})) < 65536
    assert len(ok(api.post(PATH, headers=bearer(), json={"lessons": listed}))["results"]) == 500


# What every write has

FAULTS: dict[str, dict[str, Any]] = {
    "unauthenticated": {"session": None},
    "other_learner": {"tag": "another"},
    "cross_site_request": {"site": "cross-site"},
    "invalid_idempotency_key": {"key": "not one"},
    "body_too_large": {"data": b"{}" + b" " * 65536},
    "unsupported_media_type": {"content_type": "text/plain"},
    "invalid_body": {"data": b"[1]"},
    "not_enrolled": {"session": STRANGER},
}


def with_faults(api, *faults):
    """Send many marks with these faults. If two faults are in one part of the request, the first is sent."""
    request: dict[str, Any] = {"session": LEARNER, "site": None, "tag": None, "key": None}
    request |= {"data": json.dumps({"lessons": [LESSON]}).encode(), "content_type": "application/json"}
    for fault in sorted(faults, key=list(FAULTS).index, reverse=True):
        request |= FAULTS[fault]
    headers = {} if request["session"] is None else bearer(request["session"])
    if request["site"]:
        if headers:
            headers = {"Cookie": f"authjs.session-token={token(request['session'])}"}
        headers["Sec-Fetch-Site"] = request["site"]
    if request["tag"]:
        headers["Learner-Tag"] = request["tag"]
    if request["key"]:
        headers["Idempotency-Key"] = request["key"]
    return api.post(PATH, headers=headers, data=request["data"], content_type=request["content_type"])


@one_plan
@pytest.mark.parametrize("faults", [*((one,) for one in FAULTS), *itertools.combinations(FAULTS, 2)], ids="-".join)
def test_of_two_faults_the_first_of_the_table_is_answered(api, world, faults):
    members: dict[str, Any] = {"errors": {}} if faults[0] == "invalid_body" else {}
    assert_problem(with_faults(api, *faults), faults[0], **members)
    assert completions(world) == []


@one_plan
def test_all_faults_at_once_go_one_after_the_other(api, world):
    faults = list(FAULTS)
    while faults:
        assert with_faults(api, *faults).get_json()["code"] == faults.pop(0)
    assert ok(with_faults(api))["results"][0]["completed"] is True


def test_the_limit_counts_a_call_as_one_write_whatever_its_answer(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="4 per hour")
    assert ok(mark_lessons(api, 2, 3, 4, 5, 8))["overall"]["completedCount"] == 5
    assert_problem(mark_lessons(api), "invalid_body", errors={"lessons": SIZE})
    assert_problem(with_faults(api, "cross_site_request"), "cross_site_request")
    assert_problem(with_faults(api, "other_learner"), "other_learner")
    assert results(api, 0x99) == [refused(0x99, "lesson_not_found")]
    ok(mark(api, 2))
    for answer in (mark_lessons(api, 2), mark_lessons(api), mark(api, 2)):
        assert_problem(answer, "rate_limited")


@one_plan
def test_the_idempotency_key_is_echoed_and_the_learners_own_tag_is_taken(api, world):
    tag = api.get("/api/progress/summary", headers=bearer()).headers["Learner-Tag"]
    headers = bearer() | {"Idempotency-Key": "the-key", "Learner-Tag": tag}
    answer = api.post(PATH, headers=headers, json={"lessons": [LESSON]})
    assert ok(answer)["results"][0]["completed"] is True
    assert answer.headers["Idempotency-Key"] == "the-key"


def test_a_page_of_an_allowed_origin_may_call_with_a_cookie(make_api, world):
    origin = "https://www.example.org"
    api = make_api(AUTH_SECRET=SECRET, ALLOWED_ORIGINS=origin)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = api.options(PATH, headers=asked)
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    answer = api.post(PATH, headers=cookie() | {"Origin": origin}, json={"lessons": [LESSON]})
    assert ok(answer)["results"][0]["completed"] is True
    assert answer.headers["Access-Control-Allow-Origin"] == origin


def test_a_new_learner_is_added_and_then_marks_what_is_free(make_api, world):
    api = make_api(NEW_LEARNERS="add-free")
    user_id = uuid4(0xAE3)
    assert results(api, 5, 2, user_id=user_id) == [marked(5), refused(2, "lesson_not_available")]
    assert completed(world, user_id) == [5]


# What others do at the same time


def test_a_lesson_that_is_deleted_while_it_is_marked_is_not_found_and_the_others_are_marked(
    make_api, world, database_url
):
    api = make_api()
    answers = []
    with psycopg.connect(database_url) as other:
        other.execute("delete from lessons where id = %s", [uuid4(8)])
        thread = threading.Thread(target=lambda: answers.append(mark_lessons(api, 8, 2)))
        thread.start()
        while not world.execute("select from pg_locks where not granted").rowcount:
            assert thread.is_alive()
    thread.join()
    assert ok(answers[0])["results"] == [refused(8, "lesson_not_found"), marked(2)]


def test_two_lists_at_once_answer_as_if_one_came_after_the_other(make_api, world, database_url):
    api = make_api()
    answers = []
    with psycopg.connect(database_url) as other:
        other.execute("select from users where id = %s for update", [LEARNER])
        threads = [
            threading.Thread(target=lambda lessons=lessons: answers.append(ok(mark_lessons(api, *lessons))))
            for lessons in ((3, 8), (2, 5))
        ]
        for thread in threads:
            thread.start()
        while world.execute("select from pg_locks where not granted").rowcount < len(threads):
            assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    first, second = sorted(answers, key=lambda answer: answer["overall"]["completedCount"])
    assert completed(world) in ([2, 3, 5, 8], [2, 5, 8])
    if completed(world) == [2, 3, 5, 8]:
        # Lessons 2 and 5 came first, so lesson 3 was not locked.
        assert [result["lessonId"] for result in first["results"]] == [uuid4(2), uuid4(5)]
        assert (first["overall"]["completedCount"], second["overall"]["completedCount"]) == (2, 4)
    else:
        assert first["results"] == [refused(3, "lesson_locked", 2), marked(8)]
        assert (first["overall"]["completedCount"], second["overall"]["completedCount"]) == (1, 3)
    assert second["overall"] == get(api, "summary")


def test_where_the_counts_fail_nothing_is_marked(make_api, world, monkeypatch):
    failing = Statement("marked_lessons", b"select 1 / 0", ())
    monkeypatch.setitem(STATEMENTS, "marked_lessons", failing)
    api = make_api()
    assert_problem(mark_lessons(api, 2, 3), "internal_error")
    assert completions(world) == []
