"""Courses (contract §2 and §3): their counts, their order, who may take them, and what a write answers of them."""

import pytest

from tests.conftest import both_plans
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    course_path,
    get,
    give_course,
    mark,
    module_path,
    ok,
    require,
    unmark,
    uuid4,
)

plan_mode = both_plans()

NOTHING = {"lessonId": None, "moduleId": None}


def counts(completed, total, percent, locked=None):
    found = {"percent": percent, "completedCount": completed, "totalCount": total}
    return found if locked is None else found | {"lockedCount": locked}


def ids(rows, key="courseId"):
    return [int(row[key][:8], 16) for row in rows]


@pytest.fixture
def world(db):
    """Two courses and a module without one. The learner has full access, and has completed a lesson of each.

    Course C1: module A1 (lessons A11 and A12) and module A2 (A21, which needs A12 and B11).
    Course C2: module B1 (B11 and B12). Module D1 (D11) is in no course.
    """
    add_user(db)
    add_module(db, 0xA1, 0xA11, 0xA12)
    add_module(db, 0xA2, 0xA21)
    add_module(db, 0xB1, 0xB11, 0xB12)
    add_module(db, 0xD1, 0xD11)
    add_course(db, 0xC1, 0xA1, 0xA2)
    add_course(db, 0xC2, 0xB1)
    require(db, 0xA21, 0xA12, 0xB11)
    complete(db, 0xA11, 0xB12, 0xD11)
    return db


def test_the_courses(api, world):
    assert get(api, "courses") == {
        "courses": [
            {"courseId": uuid4(0xC1), "title": "Course c1", **counts(1, 2, 50, 1)},
            {"courseId": uuid4(0xC2), "title": "Course c2", **counts(1, 2, 50, 0)},
        ],
        "overall": counts(3, 5, 60, 1),
    }


def test_the_page_of_a_course_is_one_call(api, world):
    done = "2026-01-01T00:00:00.000Z"

    def lesson(number, state="available", completed_at=None, prerequisites=()):
        return {
            "lessonId": uuid4(number),
            "title": f"Lesson {number:x}",
            "state": state,
            "completedAt": completed_at,
            "prerequisites": [uuid4(prerequisite) for prerequisite in prerequisites],
        }

    assert get(api, course_path(0xC1)) == {
        "courseId": uuid4(0xC1),
        "title": "Course c1",
        **counts(1, 2, 50, 1),
        "next": {"lessonId": uuid4(0xA12), "moduleId": uuid4(0xA1)},
        "modules": [
            {
                "moduleId": uuid4(0xA1),
                "title": "Module a1",
                **counts(1, 2, 50, 0),
                "lessons": [lesson(0xA11, "completed", done), lesson(0xA12)],
            },
            {
                "moduleId": uuid4(0xA2),
                "title": "Module a2",
                **counts(0, 0, 0, 1),
                # One of them is in another course.
                "lessons": [lesson(0xA21, "locked", None, [0xA12, 0xB11])],
            },
        ],
    }


def test_a_write_answers_with_its_module_its_course_and_everything(api, world):
    answer = ok(mark(api, 0xA12))
    assert list(answer) == ["lessonId", "completed", "completedAt", "module", "course", "overall", "completions"]
    # The course has a published lesson that is still locked, so it is not completed.
    assert answer["completions"] == [{"moduleId": uuid4(0xA1), "completedAt": answer["completedAt"]}]
    assert answer["module"] == {"moduleId": uuid4(0xA1), **counts(2, 2, 100)}
    assert answer["course"] == {"courseId": uuid4(0xC1), **counts(2, 2, 100)}
    assert answer["overall"] == counts(4, 5, 80)
    answer = ok(mark(api, 0xB11))  # which unlocks a lesson of the other course
    assert answer["course"] == {"courseId": uuid4(0xC2), **counts(2, 2, 100)}
    assert answer["overall"] == counts(5, 6, 83)
    answer = ok(unmark(api, 0xA12))
    assert list(answer) == ["lessonId", "completed", "completedAt", "module", "course", "overall"]
    assert answer["course"] == {"courseId": uuid4(0xC1), **counts(1, 2, 50)}


def test_a_write_of_a_lesson_without_a_course_answers_as_before_there_were_any(api, world):
    answer = ok(unmark(api, 0xD11))
    assert list(answer) == ["lessonId", "completed", "completedAt", "module", "overall"]
    assert answer["module"] == {"moduleId": uuid4(0xD1), **counts(0, 1, 0)}


def test_each_module_of_the_outline_names_its_course(api, world):
    modules = get(api, "outline")["modules"]
    named = [(module["moduleId"], module["courseId"]) for module in modules]
    assert named == [
        (uuid4(0xD1), None),
        (uuid4(0xA1), uuid4(0xC1)),
        (uuid4(0xA2), uuid4(0xC1)),
        (uuid4(0xB1), uuid4(0xC2)),
    ]
    assert "courseId" not in get(api, course_path(0xC1))["modules"][0]


def test_a_site_without_courses_has_an_empty_list(api, db):
    add_user(db)
    add_module(db, 1, 2)
    assert get(api, "courses") == {"courses": [], "overall": counts(0, 1, 0, 0)}


# Order


def test_everything_comes_in_catalog_order_modules_without_a_course_first(api, db):
    """By course position, then course id, whatever the positions of the modules are."""
    add_user(db)
    # (course, its position): the extremes of an integer, and two of one position.
    courses = {0x25: -2147483648, 0x24: -1, 0x22: 0, 0x23: 0, 0x21: 2147483647}
    for place, course in enumerate(courses):
        for module, position in ((2, 1), (1, 1), (3, 0)):
            # Later courses have earlier modules, and earlier ids.
            number = 0x1000 * (0xF - place) + module
            add_module(db, number, 0x10 * number, position=position - 10 * place)
        add_course(db, course, *(0x1000 * (0xF - place) + n for n in (1, 2, 3)), position=courses[course])
    add_module(db, 0x9002, 0x90020, position=2147483647)
    add_module(db, 0x9001, 0x90010, position=2147483647)
    order = [0x9001, 0x9002]
    for place in range(len(courses)):
        order += [0x1000 * (0xF - place) + module for module in (3, 1, 2)]
    assert ids(get(api, "courses")["courses"]) == [*courses]
    assert ids(get(api, "modules")["modules"], "moduleId") == order
    assert ids(get(api, "outline")["modules"], "moduleId") == order
    assert ids(get(api, course_path(0x24))["modules"], "moduleId") == order[5:8]
    lessons = [0x10 * module for module in order]
    add_module(
        db, 0x8000, 0x8FFFF, position=-2147483648
    )  # the first module of all, with a lesson that needs every other
    require(db, 0x8FFFF, *lessons)
    assert get(api, "outline")["modules"][0]["lessons"][0]["prerequisites"] == [*map(uuid4, lessons)]
    assert_problem(mark(api, 0x8FFFF), "lesson_locked", prerequisites=[*map(uuid4, lessons)])
    add_course(db, 0x2F, 0x8000)
    assert get(api, course_path(0x2F))["modules"][0]["lessons"][0]["prerequisites"] == [*map(uuid4, lessons)]
    found = []
    for _ in lessons:
        found.append(ids([get(api, "next")], "lessonId")[0])
        complete(db, found[-1], at=f"2026-01-01T00:00:{len(found):02}Z")
    assert found == lessons


def test_next_goes_on_from_the_start_after_the_last_course(api, world):
    complete(world, 0xB11, at="2026-01-02T00:00:00Z")  # B12, after it, is completed
    assert get(api, "next") == {"lessonId": uuid4(0xA12), "moduleId": uuid4(0xA1)}


def test_next_goes_from_a_module_without_a_course_into_the_first_course(api, world):
    world.execute("delete from progress")
    complete(world, 0xD11)
    assert get(api, "next") == {"lessonId": uuid4(0xA11), "moduleId": uuid4(0xA1)}


@pytest.mark.parametrize(
    ("done", "following"),
    [
        ([], 0xA11),
        ([0xA11], 0xA12),
        ([0xB11], 0xA11),  # what was completed in another course does not count
        ([0xA12], 0xA11),  # after the end, from the start again: A21 is locked
        ([0xA12, 0xB11], 0xA21),
        ([0xA12, 0xB11, 0xA21], 0xA11),
        ([0xA11, 0xA12, 0xB11, 0xA21], None),
        ([0xA11, 0xA12], None),
    ],
)
def test_the_next_lesson_of_a_course_is_as_next_within_the_course(api, world, done, following):
    world.execute("delete from progress")
    for number, lesson in enumerate(done):
        complete(world, lesson, at=f"2026-01-01T00:00:0{number}Z")
    complete(world, 0xD11, at="2026-01-01T01:00:00Z")
    found = get(api, course_path(0xC1))["next"]
    assert found["lessonId"] == (uuid4(following) if following else None)
    if not following:
        assert found == NOTHING


def test_of_lessons_completed_at_one_time_the_last_of_the_course_counts(api, db):
    add_user(db)
    add_module(db, 1, 0x13, 0x12, 0x11, 0x14)
    add_course(db, 3, 1)
    complete(db, 0x13, at="2026-01-01T00:00:00.000999Z")
    complete(db, 0x12, at="2026-01-01T00:00:00.000001Z")
    assert get(api, course_path(3))["next"]["lessonId"] == uuid4(0x11)


# Access

TERMS = [
    ("null", True),
    ("now() + interval '1 minute'", True),
    ("'infinity'", True),
    ("now()", False),
    ("now() - interval '1 millisecond'", False),
    ("'-infinity'", False),
]


@pytest.mark.parametrize(("expires", "gives"), TERMS)
def test_a_course_is_accessible_while_an_enrollment_in_it_has_not_expired(api, world, expires, gives):
    world.execute("delete from subscriptions")
    world.execute(
        f"insert into course_enrollments (user_id, course_id, expires_at) values (%s, %s, {expires})",
        [LEARNER, uuid4(0xC1)],
    )
    if not gives:
        for path in ("summary", "courses", f"courses/{uuid4(0xC1)}"):
            assert_problem(api.get(f"/api/progress/{path}", headers=bearer()), "not_enrolled")
        assert_problem(mark(api, 0xA12), "not_enrolled")
        return
    course = {"courseId": uuid4(0xC1), "title": "Course c1", **counts(1, 2, 50, 1)}
    assert get(api, "courses") == {"courses": [course], "overall": counts(1, 2, 50, 1)}
    assert get(api, "summary") == counts(1, 2, 50)
    assert ids(get(api, "outline")["modules"], "moduleId") == [0xA1, 0xA2]
    assert ids(get(api, "lessons")["lessons"], "lessonId") == [0xA11]
    assert_problem(api.get(course_path(0xC2), headers=bearer()), "course_not_found")
    assert_problem(api.get(module_path(0xB1), headers=bearer()), "module_not_found")
    for lesson in (0xB11, 0xD11):
        assert_problem(mark(api, lesson), "lesson_not_available")
        assert_problem(unmark(api, lesson), "lesson_not_available")
    answer = ok(mark(api, 0xA12))
    assert answer["course"] == {"courseId": uuid4(0xC1), **counts(2, 2, 100)}
    assert answer["overall"] == counts(2, 2, 100)


def test_an_unpublished_lesson_of_the_course_is_not_accessible(api, world):
    world.execute("delete from subscriptions")
    give_course(world, 0xC1)
    add_lesson(world, 0xA1, 0xA13, published=False)
    assert get(api, course_path(0xC1))["totalCount"] == 2
    assert_problem(mark(api, 0xA13), "lesson_not_available")


def test_a_course_and_free_access_are_both_there(api, world):
    world.execute("delete from subscriptions")
    world.execute("insert into enrollments values (%s, null)", [LEARNER])
    world.execute("update lessons set is_free = id in (%s, %s)", [uuid4(0xA11), uuid4(0xB11)])
    assert get(api, "summary") == counts(1, 2, 50)
    give_course(world, 0xC2)
    assert [(course["courseId"], course["totalCount"]) for course in get(api, "courses")["courses"]] == [
        (uuid4(0xC1), 1),
        (uuid4(0xC2), 2),
    ]


def test_two_courses_are_both_there_and_those_of_others_are_not(api, world):
    world.execute("delete from subscriptions")
    add_user(world, STRANGER, access=None)
    give_course(world, 0xC1, STRANGER)
    give_course(world, 0xC2)
    assert ids(get(api, "courses")["courses"]) == [0xC2]
    give_course(world, 0xC1)
    assert ids(get(api, "courses")["courses"]) == [0xC1, 0xC2]
    assert get(api, "summary")["totalCount"] == 4
    assert ids(get(api, "courses", STRANGER)["courses"]) == [0xC1]


def test_a_course_lasts_as_long_as_one_of_its_sources(api, world):
    """Each source is a row of its own, and the end of one leaves the others."""
    world.execute("delete from subscriptions")
    give_course(world, 0xC1, source="", until="2026-01-01")
    assert_problem(api.get("/api/progress/courses", headers=bearer()), "not_enrolled")
    give_course(world, 0xC1, source="pi_1")
    give_course(world, 0xC1, source="pi_2")
    assert get(api, "courses")["courses"][0]["totalCount"] == 2
    assert get(api, "access")["courses"] == [{"courseId": uuid4(0xC1), "until": None}]
    world.execute("delete from course_enrollments where source = 'pi_1'")
    assert get(api, "courses")["courses"][0]["totalCount"] == 2
    world.execute("update course_enrollments set expires_at = now() where source = 'pi_2'")
    assert_problem(api.get("/api/progress/courses", headers=bearer()), "not_enrolled")


def test_a_module_that_moves_to_another_course_keeps_its_completions(api, world):
    world.execute("delete from subscriptions")
    give_course(world, 0xC2)
    assert get(api, "summary") == counts(1, 2, 50)
    world.execute("update modules set course_id = %s where id = %s", [uuid4(0xC2), uuid4(0xA1)])
    assert get(api, "summary") == counts(2, 4, 50)
    assert ids(get(api, course_path(0xC2))["modules"], "moduleId") == [0xA1, 0xB1]
    world.execute("update modules set course_id = null")
    assert get(api, "summary") == counts(0, 0, 0)
    assert get(api, "courses") == {"courses": [], "overall": counts(0, 0, 0, 0)}


def test_a_course_without_a_lesson_for_the_learner_is_not_found(api, world):
    world.execute("delete from subscriptions")
    world.execute("insert into enrollments values (%s, null)", [LEARNER])
    world.execute("update lessons set is_free = true where id = %s", [uuid4(0xB11)])
    add_course(world, 0xC3)
    for course in (0xC1, 0xC3, 0x99):
        assert_problem(api.get(course_path(course), headers=bearer()), "course_not_found")
    assert ids(get(api, "courses")["courses"]) == [0xC2]


def test_a_course_whose_every_lesson_is_locked_is_accessible_and_empty(api, world):
    add_module(world, 0xD2, 0xD21)
    add_course(world, 0xC3, 0xD2)
    require(world, 0xD21, 0xA12)
    page = get(api, course_path(0xC3))
    assert {key: page[key] for key in counts(0, 0, 0, 1)} == counts(0, 0, 0, 1)
    assert page["next"] == NOTHING


@pytest.mark.parametrize("course_id", ["1", f"{uuid4(0xC1)}0", uuid4(0xC1).replace("4000", "7000"), "%00", "x" * 5000])
def test_an_id_that_is_no_uuid_of_version_4_is_refused(api, world, course_id):
    assert_problem(api.get(f"/api/progress/courses/{course_id}", headers=bearer()), "invalid_course_id")


def test_what_is_wrong_with_the_id_is_said_before_what_is_wrong_with_the_access(api, world):
    world.execute("delete from subscriptions")
    assert_problem(api.get("/api/progress/courses/1"), "unauthenticated")
    assert_problem(api.get("/api/progress/courses/1", headers=bearer()), "invalid_course_id")
    assert_problem(api.get(course_path(0x99), headers=bearer()), "not_enrolled")


def test_an_id_in_upper_case_is_the_same_course(api, world):
    path = course_path(0xC1)
    assert get(api, path.replace(uuid4(0xC1), uuid4(0xC1).upper())) == get(api, path)


# What GET /access says

LATE = "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("sources", "until"),
    [
        ({"": None}, None),
        ({"": "infinity"}, None),
        ({"": "2998-01-01T00:00:00.123Z"}, "2998-01-01T00:00:00.123Z"),
        ({"": "2998-01-01", "pi_1": "2999-01-01"}, "2999-01-01T00:00:00.000Z"),
        ({"": "2998-01-01", "pi_1": None, "pi_2": "2999-01-01"}, None),
        ({"": "2026-01-01", "pi_1": "2999-01-01"}, "2999-01-01T00:00:00.000Z"),
        ({"": "9999-12-31T23:59:59.999999Z"}, LATE),
        ({"": "10000-01-01T00:00:00Z"}, None),  # four digits cannot say it
    ],
)
def test_access_says_until_when_a_course_is_there(api, world, sources, until):
    world.execute("delete from subscriptions")
    for source, end in sources.items():
        give_course(world, 0xC1, source=source, until=end)
    assert get(api, "access") == {
        "full": False,
        "free": False,
        "courses": [{"courseId": uuid4(0xC1), "until": until}],
        "until": None,
    }


def test_an_access_that_is_over_is_not_the_end_of_a_course(api, world):
    world.execute("update subscriptions set current_period_end = '2026-01-02'")
    world.execute("insert into enrollments values (%s, '2026-01-01')", [LEARNER])
    give_course(world, 0xC1)
    courses = [{"courseId": uuid4(0xC1), "until": None}]
    assert get(api, "access") == {"full": False, "free": False, "courses": courses, "until": None}


def test_access_lists_the_courses_that_count_today_in_catalog_order(api, world):
    add_user(world, FREE_LEARNER, access="free")
    add_course(world, 0xC3, position=-1)  # a course that is bought before it has any module
    for course, until in ((0xC2, None), (0xC1, "2026-01-01"), (0xC3, None)):
        give_course(world, course, until=until)
    give_course(world, 0xC1, FREE_LEARNER)
    access = get(api, "access")
    assert (access["full"], access["free"]) == (True, False)
    assert ids(access["courses"]) == [0xC3, 0xC2]


def test_a_course_is_not_deleted_while_a_module_or_a_learner_has_it(world):
    give_course(world, 0xC2)
    for course in (0xC1, 0xC2):
        with pytest.raises(Exception, match="violates foreign key constraint"):
            world.execute("delete from courses where id = %s", [uuid4(course)])
    world.execute("delete from users")
    assert world.execute("select from course_enrollments").fetchall() == []
