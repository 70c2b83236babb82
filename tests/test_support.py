"""make mark, unmark and start-over: support writes on a learner's behalf, by the rules of the calls, without limit."""

import json
import logging
import re
from uuid import UUID, uuid5

import psycopg
import pytest

from tests.test_cli import ended, make, run, spawn
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
    completions,
    course_path,
    lesson_path,
    mark,
    module_path,
    ok,
    require,
    uuid4,
)

LESSON = uuid4(0x11)
AT = "2026-01-02T03:04:05.678Z"


@pytest.fixture(autouse=True)
def _usual_log():
    """Give the root logger back what it had: the tasks log to their own standard error."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level


@pytest.fixture
def world(db):
    """Modules 1 and 2 in course 3. Lesson 0x12 needs 0x11, lesson 0x13 is unpublished. Nothing is completed."""
    add_user(db)
    add_user(db, STRANGER, access=None)
    add_module(db, 1, 0x11, 0x12)
    add_lesson(db, 1, 0x13, published=False)
    add_module(db, 2, 0x21)
    add_course(db, 3, 1, 2)
    require(db, 0x12, 0x11)
    return db


def done(answer: tuple[int, str, str]) -> tuple[dict, dict]:
    """Return the document that a task printed, and its line in the log without the time. Assert that it succeeded."""
    code, out, err = answer
    assert code == 0, err
    log = json.loads(err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", log.pop("time"))
    return json.loads(out), log


def logged(task: str, **ids: str) -> dict[str, str]:
    return {"level": "info", "task": task, "by": "support", "user_id": LEARNER, **ids}


def test_a_mark_is_stored_and_answers_as_the_call_does(api, world, database_url):
    answer, log = done(run(database_url, "mark", USER=LEARNER, LESSON=LESSON.upper(), AT=AT))
    assert log == logged("mark", lesson_id=LESSON, completed_at="2026-01-02T03:04:05.678000+00:00")
    assert answer["completedAt"] == AT
    # The call keeps the time of the first mark, so it gives the same answer.
    assert answer == ok(mark(api, 0x11))


def test_a_mark_without_a_time_is_now(world, database_url):
    before = world.execute("select date_trunc('milliseconds', now())").fetchone()[0]
    done(run(database_url, "mark", USER=LEARNER, LESSON=LESSON))
    [at] = world.execute("select completed_at from progress").fetchone()
    assert before <= at <= world.execute("select now()").fetchone()[0]
    assert at.microsecond % 1000 == 0


def test_an_unmark_removes_the_mark_and_answers_as_the_call_does(api, world, database_url):
    complete(world, 0x11)
    answer, log = done(run(database_url, "unmark", USER=LEARNER, LESSON=LESSON))
    assert log == logged("unmark", lesson_id=LESSON)
    assert completions(world) == []
    assert answer == ok(api.delete(lesson_path(0x11), headers=bearer()))


@pytest.mark.parametrize(
    ("given", "path", "task", "ids", "removed"),
    [
        ({"MODULE": uuid4(1)}, module_path(1), "start_module_over", {"module_id": uuid4(1)}, 2),
        ({"COURSE": uuid4(3)}, course_path(3), "start_course_over", {"course_id": uuid4(3)}, 3),
        ({}, "/api/progress/lessons?all=true", "start_all_over", {}, 3),
    ],
)
def test_starting_over_removes_the_marks_and_answers_as_the_call_does(
    api, world, database_url, given, path, task, ids, removed
):
    complete(world, 0x11, 0x12, 0x21)
    answer, log = done(run(database_url, "start-over", USER=LEARNER, **given))
    assert log == logged(task, **ids)
    assert answer["removedCount"] == removed
    assert len(completions(world)) == 3 - removed
    assert answer == ok(api.delete(path, headers=bearer())) | {"removedCount": removed}


NOT_ENROLLED = (
    "Error: not_enrolled: Progress needs an active subscription, a course, or an enrollment in the free lessons.\n"
)
NOT_A_TIME = "Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."
FUTURE = "2999-01-01T00:00:00Z"
BOTH = "Error: COURSE and MODULE are both given; give one of them, or neither for everything\n"
ID = {"USER": LEARNER, "LESSON": LESSON}


@pytest.mark.parametrize(
    ("task", "given", "error"),
    [
        ("mark", {"LESSON": LESSON}, "Error: USER is not given; say which learner: USER=<id>\n"),
        ("mark", {"USER": LEARNER}, "Error: LESSON is not given; say which lesson: LESSON=<id>\n"),
        ("mark", ID | {"LESSON": "lasagna"}, "Error: LESSON=lasagna is not a UUID version 4\n"),
        ("mark", ID | {"AT": "yesterday"}, f"Error: AT=yesterday: {NOT_A_TIME}\n"),
        ("mark", ID | {"AT": FUTURE}, f"Error: AT={FUTURE}: Must not be more than five minutes in the future.\n"),
        ("mark", ID | {"USER": STRANGER}, NOT_ENROLLED),
        ("mark", ID | {"USER": uuid4(0x99)}, NOT_ENROLLED),
        ("mark", ID | {"LESSON": uuid4(0x99)}, "Error: lesson_not_found: There is no lesson with this id.\n"),
        (
            "mark",
            ID | {"LESSON": uuid4(0x13)},
            "Error: lesson_not_available: This lesson is unpublished, or this learner has no access to it.\n",
        ),
        (
            "mark",
            ID | {"LESSON": uuid4(0x12)},
            f"Error: lesson_locked: First complete the lessons that are listed in prerequisites: {LESSON}\n",
        ),
        ("unmark", {"USER": LEARNER}, "Error: LESSON is not given; say which lesson: LESSON=<id>\n"),
        ("unmark", ID | {"LESSON": uuid4(0x99)}, "Error: lesson_not_found: There is no lesson with this id.\n"),
        ("start-over", {}, "Error: USER is not given; say which learner: USER=<id>\n"),
        ("start-over", {"USER": LEARNER, "COURSE": uuid4(3), "MODULE": uuid4(1)}, BOTH),
        # An empty id must not start everything over.
        ("start-over", {"USER": LEARNER, "COURSE": ""}, "Error: COURSE is not given; say which course: COURSE=<id>\n"),
        ("start-over", {"USER": LEARNER, "MODULE": ""}, "Error: MODULE is not given; say which module: MODULE=<id>\n"),
        ("start-over", {"USER": LEARNER, "MODULE": "1"}, "Error: MODULE=1 is not a UUID version 4\n"),
        (
            "start-over",
            {"USER": LEARNER, "MODULE": uuid4(0x99)},
            "Error: module_not_found: There is no module with this id that has lessons for this learner.\n",
        ),
        (
            "start-over",
            {"USER": LEARNER, "COURSE": uuid4(0x99)},
            "Error: course_not_found: There is no course with this id that has lessons for this learner.\n",
        ),
        ("start-over", {"USER": STRANGER}, NOT_ENROLLED),
    ],
)
def test_what_is_refused_says_why_in_one_line_and_writes_nothing(world, database_url, task, given, error):
    complete(world, 0x21)
    complete(world, 0x21, user_id=STRANGER)
    before = completions(world), world.execute("select count(*) from users").fetchone()
    assert run(database_url, task, NEW_LEARNERS="add-free", **given) == (1, "", error)
    assert (completions(world), world.execute("select count(*) from users").fetchone()) == before


def test_support_is_not_limited_and_leaves_the_learners_limit_alone(make_api, world, database_url):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    ok(mark(api, 0x11))
    done(run(database_url, "unmark", USER=LEARNER, LESSON=LESSON, RATE_LIMIT_WRITES="1 per hour"))
    assert_problem(mark(api, 0x11), "rate_limited")
    assert world.execute("select count(*) from rate_limits").fetchone() == (1,)


def test_a_user_id_of_another_form_means_the_learner_whom_a_session_means(world, database_url):
    namespace = "a1b2c3d4-0000-4000-8000-000000000000"
    add_user(world, str(uuid5(UUID(namespace), "user_2x")))
    done(run(database_url, "mark", USER="user_2x", LESSON=LESSON, AUTH_USER_ID_NAMESPACE=namespace))
    assert completions(world)[0][0] == str(uuid5(UUID(namespace), "user_2x"))


def test_row_level_security_is_named(world, database_url):
    """As the service's role, from which the row of the learner is hidden, as it is while a policy is missing."""
    complete(world, 0x11)
    world.execute("alter table users enable row level security")
    try:
        url = database_url.replace("postgres@", "progress_service@")
        refused = "Error: unavailable: lock.sql found no row of the learner\n"
        assert run(url, "start-over", USER=LEARNER) == (1, "", refused)
        assert len(completions(world)) == 1
    finally:
        world.execute("alter table users disable row level security")


def test_a_write_waits_for_a_write_of_the_same_learner(world, database_url):
    """The task counts what the other write committed while the task waited for the lock."""
    with psycopg.connect(database_url) as other:
        other.execute("select id from users where id = %s for no key update", [LEARNER])
        other.execute("insert into progress values (%s, %s, '2026-01-01')", [LEARNER, uuid4(0x21)])
        process = spawn(database_url, "mark", USER=LEARNER, LESSON=LESSON)
        waiting = "select count(*) from pg_locks where not granted"
        while world.execute(waiting).fetchone() == (0,):
            assert process.poll() is None
        other.commit()
    answer, _ = done(ended(process))
    assert answer["course"]["completedCount"] == 2


def test_by_make(world, database_url):
    marked, _ = done(make(database_url, "mark", f"USER={LEARNER}", f"LESSON={LESSON}", f"AT={AT}"))
    assert marked["completedAt"] == AT
    unmarked, _ = done(make(database_url, "unmark", f"USER={LEARNER}", f"LESSON={LESSON}"))
    assert unmarked["completed"] is False
    # What was in the environment before is no choice of the person who runs make.
    started, _ = done(make(database_url, "start-over", f"USER={LEARNER}", f"MODULE={uuid4(1)}", COURSE=uuid4(3)))
    assert started["module"]["moduleId"] == uuid4(1)
    code, out, _ = make(database_url, "start-over", f"USER={LEARNER}", "COURSE=")
    assert (code, out) == (2, "")
