"""Completed modules and courses, contract §2: when a mark writes one, when it does not, and what stays."""

import pytest

from tests.conftest import both_plans, one_plan
from tests.test_cli import run
from tests.test_concurrency import in_background, lock_held, wait_until_blocked
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
    get,
    give_course,
    mark,
    ok,
    require,
    unmark,
    uuid4,
)

plan_mode = both_plans()

JANUARY, MARCH, MAY = (f"2026-0{month}-01T00:00:00.000Z" for month in (1, 3, 5))


@pytest.fixture
def world(db):
    """A course of two modules with two lessons each, and a module without a course."""
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    add_module(db, 2, 0x21, 0x22)
    add_module(db, 3, 0x31)
    add_course(db, 0xC1, 1, 2)
    return db


def module(number, at):
    return {"moduleId": uuid4(number), "completedAt": at}


def course(number, at):
    return {"courseId": uuid4(number), "completedAt": at}


def marked(api, lesson, at=None, user_id=LEARNER):
    """Mark a lesson. Return the completions that the answer names, None if it names none."""
    return ok(mark(api, lesson, user_id, json={"completedAt": at})).get("completions")


def start_over(api, path):
    ok(api.delete(f"/api/progress/{path}", headers=bearer()))


def stored(db):
    """Return what a learner's two tables hold, as (id, time, whether the row is open)."""
    return db.execute(
        "select module_id::text, completed_at at time zone 'UTC', started_over_at is null from module_completions"
        " union all select course_id::text, completed_at at time zone 'UTC', started_over_at is null"
        " from course_completions order by 1, 2"
    ).fetchall()


def test_the_last_lesson_completes_the_module_and_the_last_module_the_course(api, world):
    assert [marked(api, lesson, at) for lesson, at in ((0x11, MARCH), (0x12, JANUARY), (0x21, JANUARY))] == [
        None,
        [module(1, MARCH)],
        None,
    ]
    assert marked(api, 0x22, MAY) == [module(2, MAY), course(0xC1, MAY)]
    assert get(api, "completions") == {
        "modules": [module(1, MARCH), module(2, MAY)],
        "courses": [course(0xC1, MAY)],
    }


def test_without_completed_at_the_completion_has_the_time_of_the_mark(api, world):
    answer = ok(mark(api, 0x31))
    assert answer["completions"] == [module(3, answer["completedAt"])]


def test_a_completion_has_the_latest_time_of_its_lessons_and_not_of_others(api, world):
    complete(world, 0x31, at=MAY)
    complete(world, 0x12, at=MARCH)
    assert marked(api, 0x11, JANUARY) == [module(1, MARCH)]
    complete(world, 0x22, at=JANUARY)
    assert marked(api, 0x21, JANUARY) == [module(2, JANUARY), course(0xC1, MARCH)]


def test_a_second_mark_completes_too(api, world):
    """The other lessons may have come by plain SQL."""
    complete(world, 0x11, 0x12, 0x21, 0x22, at=JANUARY)
    assert get(api, "completions") == {"modules": [], "courses": []}
    assert marked(api, 0x11, MAY) == [module(1, JANUARY), course(0xC1, JANUARY)]
    assert marked(api, 0x11, MAY) is None
    assert marked(api, 0x21) == [module(2, JANUARY)]
    assert get(api, "completions") == {
        "modules": [module(1, JANUARY), module(2, JANUARY)],
        "courses": [course(0xC1, JANUARY)],
    }


def test_what_is_completed_stays_so_whatever_happens_later(api, world):
    for lesson in (0x11, 0x12, 0x21, 0x22):
        marked(api, lesson, JANUARY)
    before = get(api, "completions")
    assert "completions" not in ok(unmark(api, 0x12))
    add_lesson(world, 1, 0x13)
    world.execute("update lessons set published = false where id = %s", [uuid4(0x21)])
    world.execute("update modules set course_id = null where id = %s", [uuid4(2)])
    world.execute("delete from subscriptions")
    assert get(api, "completions") == before


def test_a_lesson_that_is_unmarked_and_marked_again_makes_no_second_completion(api, world):
    assert marked(api, 0x31, JANUARY) == [module(3, JANUARY)]
    unmark(api, 0x31)
    assert marked(api, 0x31, MAY) is None
    assert get(api, "completions")["modules"] == [module(3, JANUARY)]


EVERY_LESSON = (0x11, 0x12, 0x21, 0x22, 0x31)


@pytest.mark.parametrize(
    ("path", "closed"),
    [
        (f"modules/{uuid4(1)}", {1}),
        (f"courses/{uuid4(0xC1)}", {1, 2, 0xC1}),
        ("lessons?all=true", {1, 2, 3, 0xC1}),
    ],
)
def test_what_was_started_over_is_completed_once_more_and_nothing_else(api, world, path, closed):
    for lesson in EVERY_LESSON:
        marked(api, lesson, JANUARY)
    start_over(api, path)
    assert {id for id, _, is_open in stored(world) if not is_open} == {uuid4(number) for number in closed}
    made = [one for lesson in EVERY_LESSON for one in marked(api, lesson, MAY) or ()]
    again = [module(number, MAY) for number in (1, 2, 3) if number in closed]
    courses = [course(0xC1, MAY)] if 0xC1 in closed else []
    assert sorted(made, key=str) == sorted([*again, *courses], key=str)
    assert get(api, "completions") == {
        "modules": [*(module(number, JANUARY) for number in (1, 2, 3)), *again],
        "courses": [course(0xC1, JANUARY), *courses],
    }


def test_a_start_over_closes_only_that_of_which_it_removes_a_lesson(api, world):
    for lesson in EVERY_LESSON:
        marked(api, lesson, JANUARY)
    for lesson in (0x21, 0x22, 0x31):
        unmark(api, lesson)
    start_over(api, f"modules/{uuid4(2)}")
    assert all(is_open for _, _, is_open in stored(world))
    start_over(api, "lessons?all=true")
    closed = {id for id, _, is_open in stored(world) if not is_open}
    assert closed == {uuid4(1), uuid4(0xC1)}


def test_a_start_over_closes_no_completion_of_another_learner_and_none_twice(api, world):
    add_user(world, STRANGER)
    for user_id in (LEARNER, STRANGER):
        marked(api, 0x31, JANUARY, user_id)
    start_over(api, f"modules/{uuid4(3)}")
    query = "select user_id::text, started_over_at from module_completions order by started_over_at nulls last"
    first = world.execute(query).fetchall()
    assert [(user_id, at is None) for user_id, at in first] == [(LEARNER, False), (STRANGER, True)]
    marked(api, 0x31, MAY)
    start_over(api, "lessons?all=true")
    assert world.execute(query).fetchone() == first[0]


def test_a_refused_start_over_closes_nothing(api, world):
    marked(api, 0x31, JANUARY)
    world.execute("delete from subscriptions")
    answer = api.delete(f"/api/progress/modules/{uuid4(3)}", headers=bearer())
    assert_problem(answer, "not_enrolled")
    assert [is_open for _, _, is_open in stored(world)] == [True]


def test_many_marks_name_each_module_and_course_that_they_complete(api, world):
    listed = [{"lessonId": uuid4(lesson), "completedAt": MAY} for lesson in (0x22, 0x31, 0x12, 0x11)]
    complete(world, 0x21, at=JANUARY)
    answer = ok(api.post("/api/progress/lessons", headers=bearer(), json={"lessons": listed}))
    assert answer["completions"] == [module(1, MAY), module(2, MAY), module(3, MAY), course(0xC1, MAY)]
    answer = ok(api.post("/api/progress/lessons", headers=bearer(), json={"lessons": listed}))
    assert "completions" not in answer


def test_a_refused_lesson_of_many_completes_nothing(api, world):
    complete(world, 0x11, 0x12)
    world.execute("update lessons set published = false where id = %s", [uuid4(0x12)])
    listed = [{"lessonId": uuid4(lesson)} for lesson in (0x12, 0x21)]
    answer = ok(api.post("/api/progress/lessons", headers=bearer(), json={"lessons": listed}))
    assert answer["results"][0]["code"] == "lesson_not_available"
    assert "completions" not in answer


def test_no_two_completions_have_the_same_time(api, world):
    for lesson in (0x11, 0x12, 0x21, 0x22):
        marked(api, lesson, JANUARY)
    for table in ("module_completions", "course_completions"):
        world.execute(f"update {table} set started_over_at = now()")
    before = stored(world)
    assert [marked(api, lesson) for lesson in (0x11, 0x22)] == [None, None]
    assert stored(world) == before


@pytest.mark.parametrize("published", [True, False])
def test_only_published_lessons_count_also_those_that_the_learner_may_not_take(api, db, published):
    add_user(db, FREE_LEARNER, access="free")
    add_module(db, 1, 0x11, is_free=True)
    add_lesson(db, 1, 0x12, published=published)
    expected = None if published else [module(1, MAY)]
    assert marked(api, 0x11, MAY, FREE_LEARNER) == expected


def test_an_unpublished_lesson_gives_no_time_and_completes_no_course(api, world):
    add_lesson(world, 3, 0x32, published=False)
    complete(world, 0x32, at=MAY)
    add_module(world, 4)
    world.execute("update modules set course_id = %s where id = any(%s::uuid[])", [uuid4(0xC1), [uuid4(4)]])
    assert marked(api, 0x31, JANUARY) == [module(3, JANUARY)]
    complete(world, 0x11, 0x12, 0x21)
    # Module 4 has no lesson, so nothing of the course is missing.
    assert marked(api, 0x22, MARCH) == [module(2, MARCH), course(0xC1, MARCH)]


def test_a_refused_mark_completes_nothing(api, world):
    complete(world, 0x11, 0x12, 0x22, 0x31)
    add_lesson(world, 3, 0x32)
    require(world, 0x21, 0x32)
    assert_problem(mark(api, 0x21), "lesson_locked", prerequisites=[uuid4(0x32)])
    world.execute("update lessons set published = false where id = %s", [uuid4(0x12)])
    assert_problem(mark(api, 0x12), "lesson_not_available")
    world.execute("delete from subscriptions")
    give_course(world, 0xC1)
    assert_problem(mark(api, 0x31), "lesson_not_available")
    world.execute("delete from course_enrollments")
    assert_problem(mark(api, 0x11), "not_enrolled")
    assert stored(world) == []


def test_the_completions_of_others_do_not_count(api, world):
    add_user(world, STRANGER)
    assert marked(api, 0x31, JANUARY) == [module(3, JANUARY)]
    assert marked(api, 0x31, MAY, STRANGER) == [module(3, MAY)]
    complete(world, 0x12, user_id=STRANGER)
    assert marked(api, 0x11) is None
    assert get(api, "completions") == {"modules": [module(3, JANUARY)], "courses": []}
    assert get(api, "completions", STRANGER) == {"modules": [module(3, MAY)], "courses": []}


def test_completions_come_by_time_and_then_by_id(api, world):
    for lesson, at in ((0x31, MARCH), (0x21, JANUARY), (0x22, MARCH), (0x11, JANUARY), (0x12, JANUARY)):
        marked(api, lesson, at)
    assert get(api, "completions")["modules"] == [module(1, JANUARY), module(2, MARCH), module(3, MARCH)]


@pytest.mark.parametrize("access", [None, "free"])
def test_learners_without_access_get_an_answer_too(api, db, access):
    add_user(db, access=access)
    for user_id in (LEARNER, STRANGER):
        assert get(api, "completions", user_id) == {"modules": [], "courses": []}


@pytest.mark.parametrize("table", ["modules", "courses"])
def test_what_somebody_has_completed_cannot_be_deleted_and_a_deleted_learner_leaves_nothing(api, world, table):
    for lesson in (0x11, 0x12, 0x21, 0x22):
        marked(api, lesson)
    world.execute("delete from progress")
    world.execute("delete from lessons")
    world.execute("update modules set course_id = null")
    with pytest.raises(Exception, match=f"{table[:-1]}_completions"):
        world.execute(f"delete from {table}")
    world.execute("delete from users")
    assert stored(world) == []
    world.execute(f"delete from {table}")


def complete_missing(database_url):
    code, out, err = run(database_url, "complete")
    assert (code, err) == (0, "")
    return out


@one_plan
def test_make_complete_writes_what_no_mark_has_written(api, world, database_url):
    add_user(world, STRANGER, access=None)
    add_user(world, FREE_LEARNER, access="free")
    add_lesson(world, 2, 0x23, published=False)
    complete(world, 0x11, 0x12, 0x21, at=JANUARY)
    complete(world, 0x22, 0x23, at=MARCH)
    complete(world, 0x31, 0x11, user_id=STRANGER, at=MAY)
    complete(world, 0x31, user_id=FREE_LEARNER, at="2026-01-01T00:00:00.000001Z")
    assert complete_missing(database_url) == "completions written: 4 of modules, 1 of courses\n"
    assert get(api, "completions") == {
        "modules": [module(1, JANUARY), module(2, MARCH)],
        "courses": [course(0xC1, MARCH)],
    }
    assert get(api, "completions", STRANGER) == {"modules": [module(3, MAY)], "courses": []}
    assert get(api, "completions", FREE_LEARNER) == {"modules": [module(3, JANUARY)], "courses": []}
    before = stored(world)
    assert complete_missing(database_url) == "completions written: 0 of modules, 0 of courses\n"
    assert stored(world) == before


def test_make_complete_writes_nothing_beside_an_open_completion_or_at_the_same_time(world, database_url):
    complete(world, 0x11, 0x12, 0x31, at=MARCH)
    world.execute(
        "insert into module_completions (user_id, module_id, completed_at, started_over_at)"
        " values (%(user)s, %(open)s, '2025-01-01Z', null), (%(user)s, %(over)s, '2026-03-01Z', now())",
        {"user": LEARNER, "open": uuid4(1), "over": uuid4(3)},
    )
    before = stored(world)
    assert complete_missing(database_url) == "completions written: 0 of modules, 0 of courses\n"
    assert stored(world) == before


def test_make_complete_takes_all_learners_whatever_the_batch(db, database_url, monkeypatch):
    add_module(db, 1, 0x11)
    learners = [uuid4(number) for number in range(0x100, 0x107)]
    for user_id in learners:
        add_user(db, user_id)
        complete(db, 0x11, user_id=user_id)
    monkeypatch.setattr("app.tasks.completions.BATCH_LEARNERS", 3)
    assert complete_missing(database_url) == "completions written: 7 of modules, 0 of courses\n"
    owners = db.execute("select user_id::text from module_completions order by 1").fetchall()
    assert owners == [(user_id,) for user_id in learners]


@one_plan
def test_two_parallel_marks_of_the_last_two_lessons_complete_the_module_once(api, world, database_url):
    with (
        lock_held(database_url) as other,
        in_background(lambda: mark(api, 0x11)) as first,
        in_background(lambda: mark(api, 0x12)) as second,
    ):
        wait_until_blocked(world, 2)
        other.commit()
    named = [ok(answer).get("completions") for answer in (*first, *second)]
    (completed,) = [each for each in named if each]
    assert completed == get(api, "completions")["modules"]
    assert len(completed) == 1


def test_make_complete_waits_for_a_write_of_the_learner_and_sees_it(world, database_url):
    complete(world, 0x31)
    with lock_held(database_url) as other, in_background(lambda: complete_missing(database_url)) as out:
        wait_until_blocked(world)
        other.execute("delete from progress")
        other.commit()
    assert out == ["completions written: 0 of modules, 0 of courses\n"]
    assert stored(world) == []
