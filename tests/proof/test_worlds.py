"""Random catalogs and learners, with everything that the tables allow: every call answers as contract §2 says.

The worlds of test_model.py are small, and have short histories. The worlds here have many rows from the start, so they
have more unusual combinations.
"""

import random
from datetime import UTC, datetime, timedelta

import pytest

from tests.calls import reads
from tests.conftest import DEEP, both_plans
from tests.proof.model import Catalog, Course, Learner, Lesson, Module, Subscription
from tests.proof.test_model import HEADERS, LEARNERS, PAST, seen
from tests.world import uuid4

plan_mode = both_plans()
HOUR = timedelta(hours=1)


def draw(seed, ids_of_learners=LEARNERS):
    """Draw learners of a catalog with equal positions, circles, empty modules and rows that no call writes."""
    draw = random.Random(seed)
    now = datetime.now(UTC)
    ids = [uuid4(number) for number in draw.sample(range(1, 10_000), 40)]
    courses = {id: Course(f"Course {draw.random()}", draw.randint(-1, 1)) for id in ids[30 : 30 + draw.randint(0, 4)]}
    modules = {
        id: Module(f"Module {draw.random()}", draw.randint(-2, 2), draw.choice([None, *courses]))
        for id in ids[: draw.randint(1, 5)]
    }
    catalog = Catalog(modules, courses=courses)
    for id in ids[5 : 5 + draw.randint(3, 25)]:
        row = draw.choice(list(modules)), "A lesson", draw.randint(-2, 3), draw.random() < 0.8, draw.random() < 0.5
        catalog.lessons[id] = Lesson(*row)
    names = list(catalog.lessons)
    pairs = ((draw.choice(names), draw.choice(names)) for _ in range(draw.randint(0, len(names))))
    catalog.prerequisites = {pair for pair in pairs if pair[0] != pair[1]}
    learners = []
    for _ in ids_of_learners:
        status = draw.choice([None, "active", "active", "trialing", "past_due"])
        ends = draw.choice([None, now - HOUR, now + HOUR, now + HOUR])
        learner = Learner(catalog, Subscription(status, ends) if status else None, draw.random() < 0.7)
        learner.expires_at = draw.choice([None, now - HOUR, now + HOUR])
        learner.course_enrollments = {
            (course, source): draw.choice([None, now - HOUR, now + HOUR])
            for course in courses
            for source in ("", "pi_1")
            if draw.random() < 0.3
        }
        share = draw.choice([0.2, 0.5, 0.9])
        # Few different times, so that many are equal. Some are equal only when they are cut to milliseconds.
        learner.completed = {
            name: PAST + timedelta(milliseconds=draw.randint(0, 3), microseconds=draw.randint(0, 999))
            for name in names
            if draw.random() < share
        }
        learners.append(learner)
    return catalog, dict(zip(ids_of_learners, learners, strict=True))


def build(db, catalog, learners):
    with db.cursor() as cursor:
        cursor.executemany(
            "insert into courses (id, title, position) values (%s, %s, %s)",
            [(id, *row) for id, row in catalog.courses.items()],
        )
        cursor.executemany(
            "insert into modules (id, title, position, course_id) values (%s, %s, %s, %s)",
            [(id, *row) for id, row in catalog.modules.items()],
        )
        cursor.executemany(
            "insert into lessons (id, module_id, title, position, published, is_free) values (%s, %s, %s, %s, %s, %s)",
            [(id, *row) for id, row in catalog.lessons.items()],
        )
        cursor.executemany("insert into lesson_prerequisites values (%s, %s)", catalog.prerequisites)
        for id, learner in learners.items():
            cursor.execute("insert into users (id) values (%s)", [id])
            if learner.subscription:
                cursor.execute(
                    "insert into subscriptions (user_id, status, current_period_end) values (%s, %s, %s)",
                    [id, *learner.subscription],
                )
            if learner.enrolled:
                cursor.execute("insert into enrollments values (%s, %s)", [id, learner.expires_at])
            cursor.executemany(
                "insert into course_enrollments (user_id, course_id, source, expires_at) values (%s, %s, %s, %s)",
                [(id, *of, end) for of, end in learner.course_enrollments.items()],
            )
            cursor.executemany(
                "insert into progress (user_id, lesson_id, completed_at) values (%s, %s, %s)",
                [(id, name, at) for name, at in learner.completed.items()],
            )


@pytest.mark.parametrize("seed", range(1000 if DEEP else 20))
def test_every_call_answers_as_the_contract_says(api, db, seed):
    catalog, learners = draw(seed)
    build(db, catalog, learners)
    paths = reads(moduleId=list(catalog.modules), courseId=list(catalog.courses))
    for id, learner in learners.items():
        for path in paths:
            assert seen(api.get(f"/api/progress/{path}", headers=HEADERS[id])) == learner.read(path), path
    for lesson in sorted(catalog.lessons, key=lambda lesson: catalog.lessons[lesson].position):
        for id, learner in learners.items():
            answer = seen(api.post(f"/api/progress/lessons/{lesson}", headers=HEADERS[id]))
            at = datetime.fromisoformat(answer["completedAt"]) if "completedAt" in answer else PAST
            assert answer == learner.mark(lesson, at)
    for id, learner in learners.items():
        for lesson in catalog.lessons:
            answer = seen(api.delete(f"/api/progress/lessons/{lesson}", headers=HEADERS[id]))
            assert answer == learner.unmark(lesson)
    rows = db.execute("select user_id::text, lesson_id::text from progress").fetchall()
    assert set(rows) == {(id, lesson) for id, learner in learners.items() for lesson in learner.completed}
