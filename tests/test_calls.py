"""The calls of contract §3: whole answers, their order, their empty cases."""

import pytest

from tests.calls import reads
from tests.conftest import both_plans, one_plan
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    assert_private,
    assert_problem,
    bearer,
    complete,
    get,
    lesson_path,
    mark,
    module_path,
    ok,
    require,
    token,
    unmark,
    uuid4,
)

plan_mode = both_plans()
NONE = {"percent": 0, "completedCount": 0, "totalCount": 0}
READS = reads(moduleId=[uuid4(0xA)])


@pytest.fixture
def world(db):
    """A course of two modules. 0xA1 and 0xB1 are completed, 0xA2 and 0xB2 lock 0xA3, and 0xB3 is unpublished."""
    add_user(db)
    add_module(db, 0xA, 0xA1, 0xA2, 0xA3)
    add_module(db, 0xB, 0xB1, 0xB2)
    add_lesson(db, 0xB, 0xB3, published=False)
    add_course(db, 3, 0xA, 0xB)
    require(db, 0xA3, 0xB2, 0xA2, 0xA1, 0xB3)
    complete(db, 0xA1, at="2026-03-04T05:06:07.891234Z")
    complete(db, 0xB1, at="2026-03-04T05:06:07Z")
    return db


def ids(rows, key="lessonId"):
    return [int(row[key][:8], 16) for row in rows]


def test_mark_answers_with_the_lesson_its_module_and_everything(api, world):
    assert ok(mark(api, 0xA2, json={"completedAt": "2026-05-06T07:08:09.01Z"})) == {
        "lessonId": uuid4(0xA2),
        "completed": True,
        "completedAt": "2026-05-06T07:08:09.010Z",
        "module": {"moduleId": uuid4(0xA), "percent": 100, "completedCount": 2, "totalCount": 2},
        "course": {"courseId": uuid4(3), "percent": 75, "completedCount": 3, "totalCount": 4},
        "overall": {"percent": 75, "completedCount": 3, "totalCount": 4},
    }


def test_unmark_answers_in_the_same_shape(api, world):
    assert ok(unmark(api, 0xA1)) == {
        "lessonId": uuid4(0xA1),
        "completed": False,
        "completedAt": None,
        "module": {"moduleId": uuid4(0xA), "percent": 0, "completedCount": 0, "totalCount": 2},
        "course": {"courseId": uuid4(3), "percent": 25, "completedCount": 1, "totalCount": 4},
        "overall": {"percent": 25, "completedCount": 1, "totalCount": 4},
    }


def test_summary(api, world):
    assert get(api, "summary") == {"percent": 50, "completedCount": 2, "totalCount": 4}


def test_module(api, world):
    assert get(api, module_path(0xA)) == {
        "moduleId": uuid4(0xA),
        "percent": 50,
        "completedCount": 1,
        "totalCount": 2,
        "lessons": [
            {"lessonId": uuid4(0xA1), "completed": True, "completedAt": "2026-03-04T05:06:07.891Z"},
            {"lessonId": uuid4(0xA2), "completed": False, "completedAt": None},
        ],
    }


def test_lessons(api, world):
    assert get(api, "lessons") == {
        "lessons": [
            {"lessonId": uuid4(0xB1), "completedAt": "2026-03-04T05:06:07.000Z"},
            {"lessonId": uuid4(0xA1), "completedAt": "2026-03-04T05:06:07.891Z"},
        ]
    }


def test_modules(api, world):
    assert get(api, "modules") == {
        "modules": [
            {"moduleId": uuid4(0xA), "percent": 50, "completedCount": 1, "totalCount": 2},
            {"moduleId": uuid4(0xB), "percent": 50, "completedCount": 1, "totalCount": 2},
        ],
        "overall": {"percent": 50, "completedCount": 2, "totalCount": 4},
    }


def test_outline(api, world):
    def lesson(number, state, completed_at=None, prerequisites=()):
        return {
            "lessonId": uuid4(number),
            "title": f"Lesson {number:x}",
            "state": state,
            "completedAt": completed_at,
            "prerequisites": [uuid4(prerequisite) for prerequisite in prerequisites],
        }

    assert get(api, "outline") == {
        "modules": [
            {
                "moduleId": uuid4(0xA),
                "courseId": uuid4(3),
                "title": "Module a",
                "percent": 50,
                "completedCount": 1,
                "totalCount": 2,
                "lockedCount": 1,
                "lessons": [
                    lesson(0xA1, "completed", "2026-03-04T05:06:07.891Z"),
                    lesson(0xA2, "available"),
                    lesson(0xA3, "locked", None, [0xA2, 0xB2]),
                ],
            },
            {
                "moduleId": uuid4(0xB),
                "courseId": uuid4(3),
                "title": "Module b",
                "percent": 50,
                "completedCount": 1,
                "totalCount": 2,
                "lockedCount": 0,
                "lessons": [lesson(0xB1, "completed", "2026-03-04T05:06:07.000Z"), lesson(0xB2, "available")],
            },
        ],
        "overall": {"percent": 50, "completedCount": 2, "totalCount": 4, "lockedCount": 1},
    }


def test_next(api, world):
    assert get(api, "next") == {"lessonId": uuid4(0xA2), "moduleId": uuid4(0xA)}


def test_with_an_empty_catalog_every_list_is_empty_and_every_count_nought(api, db):
    add_user(db)
    assert get(api, "summary") == NONE
    assert get(api, "lessons") == {"lessons": []}
    assert get(api, "modules") == {"modules": [], "overall": NONE}
    assert get(api, "outline") == {"modules": [], "overall": NONE | {"lockedCount": 0}}
    assert get(api, "next") == {"lessonId": None, "moduleId": None}
    assert_problem(api.get(module_path(0xA), headers=bearer()), "module_not_found")


def test_an_empty_module_is_not_accessible(api, db):
    add_user(db)
    add_module(db, 0xA)
    assert get(api, "modules") == {"modules": [], "overall": NONE}
    assert get(api, "outline") == {"modules": [], "overall": NONE | {"lockedCount": 0}}
    assert_problem(api.get(module_path(0xA), headers=bearer()), "module_not_found")


@pytest.mark.parametrize("path", READS)
def test_nobody_else_sees_it(api, world, path):
    add_user(world, FREE_LEARNER, access="free")
    world.execute("update lessons set is_free = true")
    before = get(api, path, FREE_LEARNER)
    complete(world, 0xB2)
    after = get(api, path, FREE_LEARNER)
    for answer in (before, after):
        answer.pop("exportedAt", None)
    assert after == before


def test_modules_and_lessons_come_in_catalog_order(api, db):
    add_user(db)
    for module, position in ((0x13, 0), (0x12, 0), (0x11, 5), (0x14, -1), (0x15, 2147483647), (0x16, -2147483648)):
        add_module(db, module, position=position)
        for lesson, place in ((3, 1), (2, 1), (1, 7), (4, -1), (5, -2147483648), (6, 2147483647)):
            add_lesson(db, module, 0x100 * module + lesson, position=place)
    modules = [0x16, 0x14, 0x12, 0x13, 0x11, 0x15]
    lessons = [5, 4, 2, 3, 1, 6]
    assert ids(get(api, "modules")["modules"], "moduleId") == modules
    outline = get(api, "outline")["modules"]
    assert ids(outline, "moduleId") == modules
    for module in outline:
        number = int(module["moduleId"][:8], 16)
        assert ids(module["lessons"]) == [0x100 * number + lesson for lesson in lessons]
        assert ids(get(api, module_path(number))["lessons"]) == [0x100 * number + lesson for lesson in lessons]
    order = []
    for _ in range(36):
        order.append(ids([get(api, "next")])[0])
        complete(db, order[-1], at=f"2026-01-01T00:00:{len(order):02}Z")
    assert order == [0x100 * module + lesson for module in modules for lesson in lessons]
    assert get(api, "next") == {"lessonId": None, "moduleId": None}


def test_modules_of_one_position_come_by_their_ids(api, db):
    add_user(db)
    numbers = range(0x21, 0x2C)  # with so many, the order of a hash table cannot be the right one by chance
    for module in reversed(numbers):
        add_module(db, module, 0x100 * module, position=0)
    assert ids(get(api, "modules")["modules"], "moduleId") == list(numbers)
    assert ids(get(api, "outline")["modules"], "moduleId") == list(numbers)


def test_the_lessons_that_keep_one_locked_come_in_catalog_order(api, db):
    add_user(db)
    add_module(db, 1, 0x50, position=3)
    add_module(db, 2, 0x12, 0x11, position=2)
    add_module(db, 3, 0x13, position=1)
    add_lesson(db, 2, 0x10, position=2)
    add_module(db, 4, 0xF, position=2)
    require(db, 0x50, 0xF, 0x10, 0x11, 0x12, 0x13)
    order = [uuid4(number) for number in (0x13, 0x12, 0x10, 0x11, 0xF)]
    assert get(api, "outline")["modules"][-1]["lessons"][0]["prerequisites"] == order
    assert_problem(mark(api, 0x50), "lesson_locked", prerequisites=order)
    add_course(db, 3, 1)
    assert get(api, f"courses/{uuid4(3)}")["modules"][0]["lessons"][0]["prerequisites"] == order


def test_lessons_come_by_completed_at_then_id_by_the_time_that_is_shown(api, db):
    add_user(db)
    add_module(db, 1, 0x15, 0x14, 0x13, 0x12, 0x11)
    complete(db, 0x11, at="2026-01-01T00:00:00.001999Z")
    complete(db, 0x12, at="2026-01-01T00:00:00.001001Z")
    complete(db, 0x13, at="2026-01-01T00:00:00.001500Z")
    complete(db, 0x14, at="2026-01-01T00:00:00.000999Z")
    complete(db, 0x15, at="2026-01-01T00:00:00.002Z")
    rows = get(api, "lessons")["lessons"]
    assert ids(rows) == [0x14, 0x11, 0x12, 0x13, 0x15]
    assert [row["completedAt"][-4:] for row in rows] == ["000Z", "001Z", "001Z", "001Z", "002Z"]


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T00:00:00.000001Z", "1970-01-01T00:00:00.000Z"),
        ("2026-06-30T23:59:59.999999Z", "2026-06-30T23:59:59.999Z"),
        ("2026-07-01T01:30:00.5+02:00", "2026-06-30T23:30:00.500Z"),
        ("2024-02-29T12:00:00.07Z", "2024-02-29T12:00:00.070Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_utc_with_milliseconds_cut_not_rounded(api, db, stored, shown):
    add_user(db)
    add_module(db, 1, 2)
    complete(db, 2, at=stored)
    assert get(api, "lessons") == {"lessons": [{"lessonId": uuid4(2), "completedAt": shown}]}
    assert get(api, module_path(1))["lessons"] == [{"lessonId": uuid4(2), "completed": True, "completedAt": shown}]
    assert get(api, "outline")["modules"][0]["lessons"][0]["completedAt"] == shown
    assert ok(mark(api, 2))["completedAt"] == shown


@pytest.mark.parametrize(
    "title", ['"quoted" \\ and\nbroken', "</script>", "ünïcödé 🎓 \u2028", "", "%s :'user_id' $1 {}"]
)
@one_plan
def test_titles_are_shown_as_they_are(api, db, title):
    add_user(db)
    add_module(db, 1)
    db.execute("update modules set title = %s", [title])
    add_lesson(db, 1, 2, title=title)
    module = get(api, "outline")["modules"][0]
    assert (module["title"], module["lessons"][0]["title"]) == (title, title)


@pytest.mark.parametrize(
    ("completed", "following"),
    [
        ({}, 0xA1),
        ({0xA1: 1}, 0xA2),
        ({0xA2: 1}, 0xA3),
        ({0xA3: 1}, 0xB1),  # the next lesson is in the next module
        ({0xB3: 1}, 0xA1),  # after the last lesson comes the first one
        ({0xA1: 1, 0xB3: 2}, 0xA2),
        ({0xA1: 2, 0xB3: 1}, 0xA2),  # the most recent completion decides, not the one that is last in the catalog
        ({0xB1: 2, 0xB3: 1}, 0xB2),
        ({0xA1: 1, 0xA2: 1, 0xB1: 1}, 0xB2),  # of completions with the same time, the last in catalog order decides
        ({0xA2: 1, 0xA3: 2, 0xB1: 1, 0xB2: 1, 0xB3: 1}, 0xA1),
        ({0xA1: 6, 0xA2: 5, 0xA3: 4, 0xB1: 3, 0xB2: 2, 0xB3: 1}, None),
    ],
)
def test_next_goes_on_after_the_most_recently_completed(api, db, completed, following):
    add_user(db)
    add_module(db, 0xA, 0xA1, 0xA2, 0xA3)
    add_module(db, 0xB, 0xB1, 0xB2, 0xB3)
    for lesson, day in completed.items():
        complete(db, lesson, at=f"2026-01-0{day}T00:00:00Z")
    module = uuid4(following >> 4) if following else None
    assert get(api, "next") == {"lessonId": uuid4(following) if following else None, "moduleId": module}


def test_next_takes_times_that_are_shown_alike_for_one_time(api, db):
    add_user(db)
    add_module(db, 0xA, 0xA1, 0xA2, 0xA3, 0xA4)
    complete(db, 0xA1, at="2026-01-01T00:00:00.001999Z")
    complete(db, 0xA3, at="2026-01-01T00:00:00.001000Z")
    assert ids([get(api, "next")]) == [0xA4]


def test_next_passes_over_what_is_unpublished_or_locked(api, db):
    add_user(db)
    add_module(db, 0xA, 0xA1, 0xA4, 0xA5)
    add_lesson(db, 0xA, 0xA2, position=1, published=False)
    add_lesson(db, 0xA, 0xA3, position=1)
    require(db, 0xA3, 0xA5)
    complete(db, 0xA1)
    assert ids([get(api, "next")]) == [0xA4]


def test_next_never_names_what_is_locked_even_if_nothing_else_is_left(api, db):
    add_user(db)
    add_module(db, 0xA, 0xA1, 0xA2)
    require(db, 0xA1, 0xA2)
    require(db, 0xA2, 0xA1)
    assert get(api, "next") == {"lessonId": None, "moduleId": None}


@pytest.mark.parametrize("gone", ["published = false", "is_free = false"])
def test_next_does_not_start_from_a_lesson_that_is_no_longer_accessible(api, db, gone):
    add_user(db, access="free")
    add_module(db, 0xA, 0xA1, 0xA2, 0xA3, 0xA4, is_free=True)
    complete(db, 0xA1, at="2026-01-01T00:00:00Z")
    complete(db, 0xA3, at="2026-01-02T00:00:00Z")
    assert ids([get(api, "next")]) == [0xA4]
    db.execute(f"update lessons set {gone} where id = %s", [uuid4(0xA3)])
    assert ids([get(api, "next")]) == [0xA2]


def test_next_for_a_free_learner_is_a_free_lesson(api, db):
    add_user(db, access="free")
    add_module(db, 0xA, 0xA1, 0xA2)
    add_lesson(db, 0xA, 0xA3, is_free=True)
    assert get(api, "next") == {"lessonId": uuid4(0xA3), "moduleId": uuid4(0xA)}


MIXED = "aBcDeF01-2345-4678-9aBc-DeF012345678"


@one_plan
def test_ids_in_the_path_may_be_in_any_case_and_come_out_lower(api, db):
    add_user(db)
    db.execute("insert into modules (id, title, position) values (%s, '', 1)", [MIXED])
    db.execute(
        "insert into lessons (id, module_id, title, position, published) values (%s, %s, '', 1, true)", [MIXED, MIXED]
    )
    for text in (MIXED, MIXED.upper(), MIXED.lower()):
        for method, path in (("POST", "lessons"), ("DELETE", "lessons"), ("GET", "modules")):
            answer = ok(api.open(f"/api/progress/{path}/{text}", method=method, headers=bearer()))
            assert answer.get("module", answer)["moduleId"] == MIXED.lower()
            assert answer.get("lessonId", MIXED.lower()) == MIXED.lower()


@pytest.mark.parametrize("path", READS)
@one_plan
def test_head_is_as_get(api, world, path):
    headers = bearer() | {"X-Request-Id": "1"}
    answer = api.get(f"/api/progress/{path}", headers=headers)
    head = api.head(f"/api/progress/{path}", headers=headers)
    assert (head.status_code, head.data) == (200, b"")
    assert dict(head.headers) == dict(answer.headers)


@one_plan
def test_head_answers_errors_as_get_does(api, db):
    add_user(db, access=None)
    for path in ("/api/progress/summary", "/api/progress/modules/x", "/nowhere"):
        headers = bearer() | {"X-Request-Id": "1"}
        answer = api.get(path, headers=headers)
        head = api.head(path, headers=headers)
        assert (head.status_code, head.data) == (answer.status_code, b"")
        assert head.headers["Content-Type"] == "application/problem+json"
        assert dict(head.headers) == dict(answer.headers)


@pytest.mark.parametrize("path", READS)
@one_plan
def test_every_read_has_an_etag_that_changes_with_the_answer(api, world, path):
    tags = [api.get(f"/api/progress/{path}", headers=bearer()).headers["ETag"] for _ in range(2)]
    mark(api, 0xA2)
    if path == "access":
        world.execute("update subscriptions set current_period_end = '2999-01-01Z'")
    if path == "completions":
        world.execute("insert into module_completions select %s, id, now() from modules limit 1", [LEARNER])
    tags.append(api.get(f"/api/progress/{path}", headers=bearer()).headers["ETag"])
    assert tags[0] == tags[1] != tags[2]


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ("*", 304),
        ('"x", {}', 304),
        ('"x",W/"y" , W/{} ,"z"', 304),
        ('"x"', 200),
        ('W/"x", "*"', 200),
        ("", 200),
        ('"', 200),
        ("{} and more", 200),
    ],
)
@one_plan
def test_a_matching_if_none_match_is_answered_304(api, world, path, condition, status):
    answer = api.get(f"/api/progress/{path}", headers=bearer())
    # The ETag of an export is a weak one.
    condition = condition.format(answer.headers["ETag"].removeprefix("W/"))
    for method in ("GET", "HEAD"):
        again = api.open(f"/api/progress/{path}", method=method, headers=bearer() | {"If-None-Match": condition})
        assert again.status_code == status
        shown = again.data if path == "export" else answer.data  # an export has the time at which it was made
        assert again.data == (shown if (status, method) == (200, "GET") else b"")
        assert again.headers["ETag"] == answer.headers["ETag"]
        assert_private(again)
        if status == 304:
            assert not {"Content-Type", "Content-Length"} & set(again.headers.keys())


@one_plan
def test_after_a_write_the_old_etag_no_longer_matches(api, world):
    tag = api.get("/api/progress/summary", headers=bearer()).headers["ETag"]
    condition = bearer() | {"If-None-Match": tag}
    assert api.get("/api/progress/summary", headers=condition).status_code == 304
    mark(api, 0xA2)
    assert ok(api.get("/api/progress/summary", headers=condition))["completedCount"] == 3
    unmark(api, 0xA2)
    assert api.get("/api/progress/summary", headers=condition).status_code == 304


@pytest.mark.parametrize(
    "headers",
    [
        {"If-Match": '"x"'},
        {"If-Modified-Since": "Fri, 31 Dec 2100 00:00:00 GMT"},
        {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"Range": "bytes=0-3"},
        {"If-Range": '"x"', "Range": "bytes=0-3"},
    ],
)
@one_plan
def test_other_conditions_make_no_difference(api, world, headers):
    assert ok(api.get("/api/progress/summary", headers=bearer() | headers)) == get(api, "summary")
    assert ok(mark(api, 0xA1, headers=headers))["completed"] is True


@one_plan
def test_a_write_has_no_etag_and_takes_no_notice_of_a_condition(api, world):
    for write in (mark, unmark):
        answer = write(api, 0xA2, headers={"If-None-Match": "*"})
        ok(answer)
        assert "ETag" not in answer.headers


@one_plan
def test_a_condition_does_not_come_before_an_error(api, world):
    condition = {"If-None-Match": "*"}
    assert_problem(api.get("/api/progress/summary", headers=condition), "unauthenticated")
    world.execute("delete from subscriptions")
    assert_problem(api.get("/api/progress/summary", headers=bearer() | condition), "not_enrolled")


@pytest.mark.parametrize("query", ["?user_id=x", "?sub=" + uuid4(7), "?completedAt=x&a=%ff", "?"])
@one_plan
def test_the_query_makes_no_difference(api, world, query):
    assert get(api, "/api/progress/summary" + query) == get(api, "summary")


@one_plan
def test_the_user_is_the_sessions_whatever_the_request_says(api, world):
    add_user(world, FREE_LEARNER)
    headers = {"Authorization": f"Bearer {token(FREE_LEARNER)}", "X-User-Id": LEARNER, "Cookie": f"user_id={LEARNER}"}
    assert ok(api.get(f"/api/progress/summary?user_id={LEARNER}", headers=headers))["completedCount"] == 0
    assert_problem(
        api.post(lesson_path(0xA1), headers=headers, json={"userId": LEARNER}),
        "invalid_body",
        errors={"userId": ["Unknown field."]},
    )
