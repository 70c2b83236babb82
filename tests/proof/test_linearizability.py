"""Contract §3: parallel calls answer as if one came after the other.

Random histories are checked by tests/proof/histories.py. The first tests here check this checker.
"""

import itertools
import multiprocessing
import random
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.calls import reads
from tests.conftest import DEEP, running_gunicorn
from tests.proof.histories import Call, Operation, client, serial_order
from tests.proof.model import Catalog, Course, Learner, Lesson, Module, Subscription
from tests.world import add_course, add_module, add_user, bearer, require, uuid4

A, B, C = LESSONS = [uuid4(number) for number in (0xA, 0xB, 0xC)]
MODULE = uuid4(1)
NEXT_YEAR = datetime.now(UTC) + timedelta(days=365)


def small_learner(*completed: str) -> Learner:
    """Return a learner with full access to one module with the lessons A, B and C. B needs A."""
    catalog = Catalog(
        {MODULE: Module("", 1)},
        {lesson: Lesson(MODULE, "", position, True, False) for position, lesson in enumerate(LESSONS)},
        {(B, A)},
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Learner(catalog, Subscription("active", NEXT_YEAR), completed=dict.fromkeys(completed, at))


# The checker


def write(method, lesson, completed, total, at="2026-01-01T00:00:00.000Z"):
    """Return a write and its answer, which counts `completed` of `total` lessons."""
    counts = {"percent": 100 * completed // total, "completedCount": completed, "totalCount": total}
    marked = method == "POST"
    answer = {"lessonId": lesson, "completed": marked, "completedAt": at if marked else None}
    return Call("", method, f"lessons/{lesson}"), answer | {
        "module": {"moduleId": MODULE, **counts},
        "overall": counts,
    }


def start_over(removed, completed, total):
    """Return starting everything over and its answer: `removed` marks, then the counts."""
    counts = {"percent": 100 * completed // total, "completedCount": completed, "totalCount": total}
    return Call("", "DELETE", "lessons?all=true"), {"removedCount": removed, "overall": counts}


def refused(lesson, *prerequisites):
    return Call("", "POST", f"lessons/{lesson}"), {"code": "lesson_locked", "prerequisites": list(prerequisites)}


def read(completed, total):
    counts = {"percent": 100 * completed // total, "completedCount": completed, "totalCount": total}
    return Call("", "GET", "summary"), counts


def history(*operations):
    """Return operations, each from a tuple (start, end, (call, answer))."""
    return [Operation(call, started, ended, answer) for started, ended, (call, answer) in operations]


def many(lessons, completed, total, **refused):
    """Return many marks and their answer, in which `refused` says why a lesson of LESSONS was refused."""
    counts = {"percent": 100 * completed // total, "completedCount": completed, "totalCount": total}
    names = dict(zip(LESSONS, "ABC", strict=True))
    results = [
        {"lessonId": lesson, "completed": False, "code": "lesson_locked", "prerequisites": refused[names[lesson]]}
        if names[lesson] in refused
        else {"lessonId": lesson, "completed": True, "completedAt": "2026-01-01T00:00:00.000Z"}
        for lesson in lessons
    ]
    modules = [{"moduleId": MODULE, **counts}]
    answer = {"results": results, "modules": modules, "courses": [], "overall": counts}
    return Call("", "POST", "lessons", "2026-01-01T00:00:00Z", tuple(lessons)), answer


LINEARIZABLE = {
    "nothing": [],
    "many marks beside an unmark of what they need": [
        (0, 9, many([B, A], 2, 3)),
        (0, 9, write("DELETE", A, 1, 3)),
        (8, 9, many([B, C], 2, 3)),
    ],
    "many marks before the mark of what one of them needs": [
        (0, 9, write("POST", A, 2, 3)),
        (1, 2, many([B, C], 1, 2, B=[A])),
    ],
    "one after the other": [(0, 1, write("POST", A, 1, 3)), (2, 3, write("POST", C, 2, 3)), (4, 5, read(2, 3))],
    "at once, in one order": [(0, 9, write("POST", A, 1, 3)), (0, 9, write("POST", C, 2, 3))],
    "at once, in the other": [(0, 9, write("POST", A, 2, 3)), (0, 9, write("POST", C, 1, 2))],
    "a read beside a write that does not see it": [(0, 9, write("POST", A, 1, 3)), (1, 2, read(0, 2))],
    "a read beside a write that sees it": [(0, 9, write("POST", A, 1, 3)), (1, 2, read(1, 3))],
    "reads beside a write, the later ones see it": [
        (0, 9, write("POST", A, 1, 3)),
        *((at, at + 0.5, read(*seen)) for at, seen in ((1, (0, 2)), (2, (0, 2)), (3, (1, 3)), (4, (1, 3)))),
    ],
    "a mark refused beside the mark of what it needs": [(0, 9, write("POST", A, 1, 3)), (1, 2, refused(B, A))],
    "a mark of what needs it in time": [(0, 9, write("POST", A, 1, 3)), (1, 2, write("POST", B, 2, 3))],
    "a second mark keeps the time": [
        (0, 9, write("POST", A, 1, 3, at="2026-01-01T00:00:00.000Z")),
        (0, 9, write("POST", A, 1, 3, at="2026-01-01T00:00:00.000Z")),
    ],
    "marked, taken back, marked anew": [
        (0, 9, write("POST", A, 1, 3, at="2026-01-01T00:00:00.000Z")),
        (0, 9, write("DELETE", A, 0, 2)),
        (0, 9, write("POST", A, 1, 3, at="2026-01-02T00:00:00.000Z")),
    ],
    "two starts over at once, of which one removes what is there": [
        (0, 1, write("POST", A, 1, 3)),
        (2, 9, start_over(1, 0, 2)),
        (2, 9, start_over(0, 0, 2)),
    ],
}
NOT_LINEARIZABLE = {
    "two starts over that both remove one completion": [
        (0, 1, write("POST", A, 1, 3)),
        (2, 9, start_over(1, 0, 2)),
        (2, 9, start_over(1, 0, 2)),
    ],
    "half of many marks": [(0, 9, many([B, A, C], 3, 3)), (1, 2, read(1, 3))],
    "many marks on a prerequisite that was gone": [
        (0, 1, write("POST", A, 1, 3)),
        (2, 3, write("DELETE", A, 0, 2)),
        (4, 5, many([B, C], 2, 3)),
    ],
    "a stale count": [(0, 1, write("POST", A, 1, 3)), (2, 3, write("POST", C, 1, 3))],
    "two at once that do not count each other": [(0, 9, write("POST", A, 1, 3)), (0, 9, write("POST", C, 1, 2))],
    "two at once that both count the other": [(0, 9, write("POST", A, 2, 3)), (0, 9, write("POST", C, 2, 3))],
    "a lost update": [(0, 1, write("POST", A, 1, 3)), (0, 1, write("POST", C, 2, 3)), (2, 3, read(1, 3))],
    "a write that a later read does not see": [(0, 1, write("POST", A, 1, 3)), (2, 3, read(0, 2))],
    "reads that go back in time": [(0, 9, write("POST", A, 1, 3)), (1, 2, read(1, 3)), (3, 4, read(0, 2))],
    "a count of what was not yet asked for": [(0, 1, write("POST", A, 2, 3)), (2, 3, write("POST", C, 2, 3))],
    "two times for one completion": [
        (0, 9, write("POST", A, 1, 3, at="2026-01-01T00:00:00.000Z")),
        (0, 9, write("POST", A, 1, 3, at="2026-01-02T00:00:00.000Z")),
    ],
    "a mark on a prerequisite that was gone": [
        (0, 1, write("POST", A, 1, 3)),
        (2, 3, write("DELETE", A, 0, 2)),
        (4, 5, write("POST", B, 1, 2)),
    ],
    "a refusal for what was done": [(0, 1, write("POST", A, 1, 3)), (2, 3, refused(B, A))],
    "the counts of somebody else": [(0, 1, write("POST", A, 1, 3)), (2, 3, read(2, 3))],
}


@pytest.mark.parametrize("operations", LINEARIZABLE.values(), ids=LINEARIZABLE)
def test_the_checker_finds_an_order_that_explains_every_answer(operations):
    operations = history(*operations)
    order = serial_order(small_learner(), operations)
    assert order is not None
    assert sorted(order, key=operations.index) == operations
    assert not any(later.ended < earlier.started for earlier, later in itertools.combinations(order, 2))


@pytest.mark.parametrize("operations", NOT_LINEARIZABLE.values(), ids=NOT_LINEARIZABLE)
def test_the_checker_finds_none_where_there_is_none(operations):
    assert serial_order(small_learner(), history(*operations)) is None


# The service

ROUNDS = 500 if DEEP else 20
PROCESSES = 6
CALLS = 10  # of each process in each round
LEARNERS = [uuid4(0xA0 + number) for number in range(3)]
MODULES = {uuid4(1): [uuid4(0x10 + n) for n in range(4)], uuid4(2): [uuid4(0x20 + n) for n in range(4)]}
EVERY_LESSON = [lesson for lessons in MODULES.values() for lesson in lessons]
COURSE = uuid4(3)
STARTS_OVER = ["lessons?all=true", f"courses/{COURSE}", *(f"modules/{module}" for module in MODULES)]
PATHS = reads(moduleId=list(MODULES), courseId=[COURSE])
INSTANTS = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]


def catalog(db: psycopg.Connection) -> Catalog:
    """Add two modules of four lessons. The prerequisites are a diamond in the first, and a chain into the second.

    The second module is in a course.
    """
    add_module(db, 1, 0x10, 0x11, 0x12, 0x13)
    add_module(db, 2, 0x20, 0x21, 0x22, 0x23)
    add_course(db, 3, 2)
    needs = {0x11: [0x10], 0x12: [0x10], 0x13: [0x11, 0x12], 0x21: [0x13], 0x22: [0x21]}
    for lesson, prerequisites in needs.items():
        require(db, lesson, *prerequisites)
    return Catalog(
        {uuid4(1): Module("Module 1", 1), uuid4(2): Module("Module 2", 2, COURSE)},
        {
            lesson: Lesson(module, f"Lesson {int(lesson[:8], 16):x}", position, True, False)
            for module, lessons in MODULES.items()
            for position, lesson in enumerate(lessons, 1)
        },
        {(uuid4(lesson), uuid4(needed)) for lesson, prerequisites in needs.items() for needed in prerequisites},
        {COURSE: Course("Course 3", 3)},
    )


def draw(draw: random.Random, learners: list[str]) -> list[Call]:
    """Draw the calls of one process: reads of all kinds, and writes of few lessons, so that many writes conflict."""
    calls = []
    lessons = draw.sample(EVERY_LESSON, 3) + EVERY_LESSON[:2]
    for _ in range(CALLS):
        method = draw.choice(["POST", "POST", "MANY", "DELETE", "GET", "GET"])
        if method == "MANY":
            at = draw.choice([None, draw.choice(INSTANTS).isoformat()])
            many = tuple(draw.sample(EVERY_LESSON, draw.randint(1, len(EVERY_LESSON))))
            calls.append(Call(draw.choice(learners), "POST", "lessons", at, many))
            continue
        path = draw.choice(PATHS) if method == "GET" else f"lessons/{draw.choice(lessons)}"
        if method == "DELETE" and draw.random() < 0.3:
            path = draw.choice(STARTS_OVER)
        at = draw.choice([None, draw.choice(INSTANTS).isoformat()]) if method == "POST" else None
        calls.append(Call(draw.choice(learners), method, path, at))
    return calls


def overlaps(operations: list[Operation]) -> int:
    return sum(
        one.started < other.ended and other.started < one.ended
        for one, other in itertools.combinations(operations, 2)
        if "GET" not in (one.call.method, other.call.method)
    )


def test_whatever_comes_at_once_some_serial_order_explains_every_answer(environ, db):
    known = catalog(db)
    for user_id in LEARNERS:
        add_user(db, user_id)
    db.execute("update subscriptions set current_period_end = %s", [NEXT_YEAR])
    headers = {user_id: bearer(user_id) for user_id in LEARNERS}
    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    before, others = db.execute(deadlocks).fetchone(), backends(db)
    met = 0
    with (
        running_gunicorn(environ | {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}) as service,
        multiprocessing.get_context("spawn").Pool(PROCESSES) as pool,
    ):
        for number in range(ROUNDS):
            seed = random.randrange(2**32) if DEEP else number
            drawn = random.Random(seed)
            learners = drawn.sample(LEARNERS, drawn.choice([1, 1, 2, 3]))
            states = {user_id: Learner(known, Subscription("active", NEXT_YEAR)) for user_id in learners}
            db.execute("delete from progress; delete from module_completions; delete from course_completions")
            for user_id, learner in states.items():
                learner.completed = {name: INSTANTS[0] for name in EVERY_LESSON if drawn.random() < 0.3}
                db.cursor().executemany(
                    "insert into progress (user_id, lesson_id, completed_at) values (%s, %s, %s)",
                    [(user_id, lesson, at) for lesson, at in learner.completed.items()],
                )
            calls = [draw(drawn, learners) for _ in range(PROCESSES)]
            start = time.monotonic() + 0.02
            parts = pool.starmap(client, [(service.url, headers, part, start) for part in calls], chunksize=1)
            for user_id, learner in states.items():
                operations = [operation for part in parts for operation in part if operation.call.user_id == user_id]
                met += overlaps(operations)
                in_order = "\n".join(map(str, sorted(operations, key=lambda operation: operation.started)))
                assert serial_order(learner, operations) is not None, (
                    f"no order explains this history (seed {seed}), which began with {learner.completed}:\n{in_order}"
                )
    # Enough writes must have overlapped. Otherwise the test would show nothing.
    assert met > ROUNDS
    # There was no deadlock. After a deadlock the service repeats the write, so no answer would show one. A backend adds
    # its deadlocks to the statistics when it ends.
    deadline = time.monotonic() + 60
    while not backends(db) <= others:
        assert time.monotonic() < deadline, "the service's backends do not end"
    assert db.execute(deadlocks).fetchone() == before


def backends(db: psycopg.Connection) -> set[int]:
    query = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    return {pid for (pid,) in db.execute(query).fetchall()}
