"""Which events a write adds, contract §9: in its own transaction, and none without a change."""

import json
from typing import Any

import pytest

from app.events import content
from tests.receiver import WEBHOOK_SECRET
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
    complete,
    get,
    mark,
    ok,
    require,
    unmark,
    uuid4,
)

WEBHOOK = {"WEBHOOK_URL": "https://www.example.org/webhooks", "WEBHOOK_SECRET": WEBHOOK_SECRET}
JANUARY, MAY = "2026-01-01T00:00:00.000Z", "2026-05-01T00:00:00.000Z"
COURSE = uuid4(0xC1)


@pytest.fixture
def world(db):
    """A course of two modules with two lessons each, and a module without a course."""
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    add_module(db, 2, 0x21, 0x22)
    add_module(db, 3, 0x31)
    add_course(db, 0xC1, 1, 2)
    return db


@pytest.fixture
def api(make_api, world):
    return make_api(**WEBHOOK)


def events(db) -> list[dict[str, Any]]:
    """Return the events in their order, as type and data, and remove them."""
    rows = db.execute("select type, data from events order by user_id, id").fetchall()
    db.execute("delete from events")
    return [{"type": name, **data} for name, data in rows]


def counts(completed: int, total: int, **ids: str) -> dict[str, Any]:
    return {**ids, "percent": 100 * completed // total, "completedCount": completed, "totalCount": total}


def lesson_event(kind, lesson, at, module, course, overall):
    """Return the event of a lesson. `module`, `course` and `overall` are (completed, total)."""
    of_course = {"course": counts(*course, courseId=COURSE)} if course else {}
    return {
        "type": f"lesson.{kind}",
        "userId": LEARNER,
        "lessonId": uuid4(lesson),
        "completedAt": at,
        "module": counts(*module, moduleId=uuid4(lesson >> 4)),
        **of_course,
        "overall": counts(*overall),
    }


def module_event(number, at, module, course, overall):
    of_course = {"course": counts(*course, courseId=COURSE)} if course else {}
    return {
        "type": "module.completed",
        "userId": LEARNER,
        "moduleId": uuid4(number),
        "completedAt": at,
        "module": counts(*module, moduleId=uuid4(number)),
        **of_course,
        "overall": counts(*overall),
    }


def course_event(at, course, overall):
    return {
        "type": "course.completed",
        "userId": LEARNER,
        "courseId": COURSE,
        "completedAt": at,
        "course": counts(*course, courseId=COURSE),
        "overall": counts(*overall),
    }


def marked(api, lesson, at=MAY):
    return ok(mark(api, lesson, json={"completedAt": at}))


def many(api, *lessons, at=MAY):
    listed = [{"lessonId": uuid4(lesson), "completedAt": at} for lesson in lessons]
    return ok(api.post("/api/progress/lessons", headers=bearer(), json={"lessons": listed}))


def start_over(api, path):
    return ok(api.delete(f"/api/progress/{path}", headers=bearer()))


def test_a_mark_is_an_event_with_the_counts_after_it_and_a_second_mark_is_none(api, world):
    marked(api, 0x11)
    assert events(world) == [lesson_event("completed", 0x11, MAY, (1, 2), (1, 4), (1, 5))]
    marked(api, 0x11, JANUARY)
    assert events(world) == []


def test_a_lesson_without_a_course_is_an_event_without_one(api, world):
    marked(api, 0x31)
    assert events(world) == [
        lesson_event("completed", 0x31, MAY, (1, 1), None, (1, 5)),
        module_event(3, MAY, (1, 1), None, (1, 5)),
    ]


def test_the_mark_that_finishes_a_course_is_four_events_in_this_order(api, world):
    complete(world, 0x11, 0x12, 0x21, at=JANUARY)
    marked(api, 0x22)
    assert events(world) == [
        lesson_event("completed", 0x22, MAY, (2, 2), (4, 4), (4, 5)),
        module_event(2, MAY, (2, 2), (4, 4), (4, 5)),
        course_event(MAY, (4, 4), (4, 5)),
    ]


def test_a_second_mark_that_completes_is_the_event_of_the_completion_alone(api, world):
    complete(world, 0x11, 0x12, at=JANUARY)
    marked(api, 0x12)
    assert events(world) == [module_event(1, JANUARY, (2, 2), (2, 4), (2, 5))]


def test_an_unmark_is_an_event_with_the_time_that_was_removed(api, world):
    complete(world, 0x11, at=JANUARY)
    ok(unmark(api, 0x11))
    assert events(world) == [lesson_event("uncompleted", 0x11, JANUARY, (0, 2), (0, 4), (0, 5))]
    ok(unmark(api, 0x11))
    assert events(world) == []


def test_many_marks_are_an_event_for_each_lesson_that_changed_with_the_counts_after_all(api, world):
    complete(world, 0x21, at=JANUARY)
    add_lesson(world, 3, 0x32, published=False)
    many(api, 0x22, 0x21, 0x32, 0x12, 0x99, 0x11)
    assert events(world) == [
        lesson_event("completed", 0x22, MAY, (2, 2), (4, 4), (4, 5)),
        lesson_event("completed", 0x12, MAY, (2, 2), (4, 4), (4, 5)),
        lesson_event("completed", 0x11, MAY, (2, 2), (4, 4), (4, 5)),
        module_event(1, MAY, (2, 2), (4, 4), (4, 5)),
        module_event(2, MAY, (2, 2), (4, 4), (4, 5)),
        course_event(MAY, (4, 4), (4, 5)),
    ]
    many(api, 0x22, 0x21)
    assert events(world) == []


def test_starting_over_is_an_event_for_each_lesson_of_which_a_mark_was_removed(api, world):
    complete(world, 0x12, at=MAY)
    complete(world, 0x11, 0x21, 0x31, at=JANUARY)
    start_over(api, f"modules/{uuid4(1)}")
    assert events(world) == [
        lesson_event("uncompleted", 0x11, JANUARY, (0, 2), (1, 4), (2, 5)),
        lesson_event("uncompleted", 0x12, MAY, (0, 2), (1, 4), (2, 5)),
    ]
    start_over(api, f"courses/{COURSE}")
    assert events(world) == [lesson_event("uncompleted", 0x21, JANUARY, (0, 2), (0, 4), (1, 5))]
    complete(world, 0x22, at=MAY)
    start_over(api, "lessons?all=true")
    assert events(world) == [
        lesson_event("uncompleted", 0x31, JANUARY, (0, 1), None, (0, 5)),
        lesson_event("uncompleted", 0x22, MAY, (0, 2), (0, 4), (0, 5)),
    ]
    start_over(api, "lessons?all=true")
    assert events(world) == []


def test_a_refused_write_is_no_event(api, world):
    add_lesson(world, 3, 0x32, published=False)
    require(world, 0x12, 0x11)
    assert_problem(mark(api, 0x12), "lesson_locked", prerequisites=[uuid4(0x11)])
    for lesson, code in ((0x32, "lesson_not_available"), (0x99, "lesson_not_found")):
        for write in (mark, unmark):
            assert_problem(write(api, lesson), code)
    assert_problem(api.delete(f"/api/progress/modules/{uuid4(9)}", headers=bearer()), "module_not_found")
    assert_problem(mark(api, 0x11, STRANGER), "not_enrolled")
    assert many(api, 0x32, 0x12)["results"][1]["code"] == "lesson_locked"
    assert events(world) == []


def test_a_write_that_the_database_rolls_back_is_no_event_and_an_event_that_fails_undoes_its_write(api, world):
    marked(api, 0x11)
    assert len(events(world)) == 1
    world.execute("alter table events add constraint refused check (type <> 'lesson.completed') not valid")
    try:
        assert_problem(mark(api, 0x12), "internal_error")
    finally:
        world.execute("alter table events drop constraint refused")
    assert events(world) == []
    assert get(api, "summary")["completedCount"] == 1
    assert get(api, "completions")["modules"] == []


def test_a_connection_that_is_lost_before_the_events_are_added_undoes_the_write(api, world, monkeypatch):
    of_write = content.of_write

    def lose_the_connection(*arguments):
        world.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ 'progress-tracking'"
        )
        return of_write(*arguments)

    monkeypatch.setattr(content, "of_write", lose_the_connection)
    assert_problem(mark(api, 0x31), "unavailable")
    monkeypatch.undo()
    assert (get(api, "lessons"), get(api, "completions")["modules"], events(world)) == ({"lessons": []}, [], [])
    marked(api, 0x31)
    assert len(events(world)) == 2


def test_without_a_webhook_no_write_is_an_event(make_api, world):
    api = make_api()
    marked(api, 0x11)
    many(api, 0x12, 0x31)
    ok(unmark(api, 0x11))
    start_over(api, "lessons?all=true")
    assert events(world) == []


def test_the_answers_are_the_same_with_and_without_a_webhook(make_api, api, world):
    def answers(client):
        world.execute("delete from progress; delete from module_completions; delete from course_completions")
        found = [marked(client, lesson) for lesson in (0x11, 0x12, 0x12)]
        found += [many(client, 0x22, 0x21, 0x99), ok(unmark(client, 0x11))]
        return [*found, *(start_over(client, path) for path in (f"modules/{uuid4(1)}", f"courses/{COURSE}"))]

    assert answers(api) == answers(make_api())


def test_a_learner_who_is_added_meanwhile_gets_each_event_once(make_api, db, database_url):
    """Between lock.sql and the write somebody adds the learner. The write is rolled back, and made again."""
    add_module(db, 1, 0x11)
    api = make_api(**WEBHOOK)
    with lock_held(database_url) as other:
        other.execute("lock table progress in access exclusive mode")  # may_mark.sql waits for this
        with in_background(lambda: mark(api, 0x11, json={"completedAt": MAY})) as answers:
            wait_until_blocked(db)
            other.execute("insert into users (id) values (%s)", [LEARNER])
            other.execute(
                "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', 'infinity')",
                [LEARNER],
            )
            other.commit()
    assert len(ok(answers[0])["completions"]) == 1
    assert [each["type"] for each in events(db)] == ["lesson.completed", "module.completed"]


@pytest.mark.parametrize("settings", [{}, WEBHOOK])
def test_the_tasks_of_support_complete_as_the_calls_do_and_are_events(world, database_url, settings):
    outcome = run(database_url, "mark", USER=LEARNER, LESSON=uuid4(0x31), AT=MAY, **settings)
    assert outcome[0] == 0
    assert json.loads(outcome[1])["completions"] == [{"moduleId": uuid4(3), "completedAt": MAY}]
    assert run(database_url, "unmark", USER=LEARNER, LESSON=uuid4(0x31), **settings)[0] == 0
    assert run(database_url, "mark", USER=LEARNER, LESSON=uuid4(0x31), AT=MAY, **settings)[0] == 0
    assert run(database_url, "start-over", USER=LEARNER, MODULE=uuid4(3), **settings)[0] == 0
    assert run(database_url, "mark", USER=LEARNER, LESSON=uuid4(0x99), **settings)[0] == 1
    types = [each["type"] for each in events(world)]
    expected = ["lesson.completed", "module.completed", "lesson.uncompleted", "lesson.completed", "lesson.uncompleted"]
    assert types == (expected if settings else [])


def test_make_complete_writes_no_events(world, database_url):
    complete(world, 0x31)
    assert run(database_url, "complete", **WEBHOOK)[0] == 0
    assert events(world) == []
