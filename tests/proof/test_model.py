"""Catalogs and learners change at random, by calls and by plain SQL. Every answer must be the model's (model.py)."""

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from werkzeug.test import TestResponse

from tests.calls import reads
from tests.conftest import DEEP, MODES
from tests.proof.model import Catalog, Course, Learner, Lesson, Module, Subscription, known_of_export
from tests.world import assert_problem, ok, token, uuid4

COURSES = [uuid4(number) for number in (2, 1)]  # whose ids are also those of modules
MODULES = [uuid4(number) for number in (1, 2, 3)]
# The order of the ids here is not their sorted order, so that an order by id differs from any other order.
LESSONS = [uuid4(number) for number in (0x15, 0x12, 0x19, 0x11, 0x17, 0x18, 0x13, 0x16, 0x14, 0x10)]
NO_LESSON = uuid4(0x99)
LEARNERS = [uuid4(0xA11CE), uuid4(0xB0B)]
A_DAY = int(time.time()) + 86400  # a token must last for the deep form, which may take more than an hour
HEADERS = {learner: {"Authorization": f"Bearer {token(learner, exp=A_DAY)}"} for learner in LEARNERS}
PAST = datetime(2026, 1, 1, tzinfo=UTC)

positions = st.integers(-1, 2)  # few different positions, so that many lessons have the same one
titles = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
lesson_ids, module_ids, learners = st.sampled_from(LESSONS), st.sampled_from(MODULES), st.sampled_from(LEARNERS)
course_ids, sources = st.sampled_from(COURSES), st.sampled_from(["", "pi_1"])
# Most lessons are in one module, so that its counts are large enough for a percent that must be rounded.
lessons = st.builds(
    Lesson,
    st.sampled_from([MODULES[0], MODULES[0], *MODULES]),
    titles,
    positions,
    st.sampled_from([True, True, False]),
    st.booleans(),
)
# Few instants. Some differ only by less than a millisecond, which an answer does not show.
instants = st.builds(
    lambda milliseconds, microseconds: PAST + timedelta(milliseconds=milliseconds, microseconds=microseconds),
    st.integers(0, 2),
    st.sampled_from([0, 1, 999]),
)
lists_of_marks = st.lists(
    st.tuples(lesson_ids | st.just(NO_LESSON), st.none() | instants),
    min_size=1,
    max_size=len(LESSONS) + 1,
    unique_by=lambda entry: entry[0],
)
hours = st.sampled_from([-1, 1]).map(lambda hours: timedelta(hours=hours))
statuses = st.sampled_from(["active", "trialing", "past_due", "canceled"])
# NO_LESSON is the id of no module and of no course either.
started_over = st.sampled_from(
    [
        "lessons?all=true",
        *(f"modules/{module}" for module in [*MODULES, NO_LESSON]),
        *(f"courses/{course}" for course in [*COURSES, NO_LESSON]),
    ]
)
pairs = st.tuples(lesson_ids, lesson_ids).filter(lambda pair: pair[0] != pair[1])
chain = {(needs, needed) for needed, needs in itertools.pairwise(LESSONS[:4])}
diamond = {(LESSONS[1], LESSONS[0]), (LESSONS[2], LESSONS[0]), (LESSONS[3], LESSONS[1]), (LESSONS[3], LESSONS[2])}
prerequisites = st.one_of(st.sets(pairs, max_size=12), st.just(chain), st.just(diamond))


def seen(response: TestResponse) -> dict[str, Any]:
    """Return an answer in the form of the model's answers. Assert what holds for every success and every error."""
    if response.status_code == 200:
        return known_of_export(ok(response))
    document = response.get_json()
    members: dict[str, Any] = {name: document[name] for name in ("code", "prerequisites") if name in document}
    assert_problem(response, **members)
    return members


class World(RuleBasedStateMachine):
    """Two learners of one catalog."""

    def __init__(self, apps: dict[str, Flask], db: psycopg.Connection, empty_tables: Callable[[], None]) -> None:
        super().__init__()
        self.apps, self.db, self.empty_tables = apps, db, empty_tables
        self.catalog = Catalog()
        self.learners = {user_id: Learner(self.catalog) for user_id in LEARNERS}
        self.acting = LEARNERS[0]
        self.turns = itertools.cycle(LESSONS)

    @initialize(
        plan_mode=st.sampled_from(MODES),
        courses=st.dictionaries(course_ids, st.builds(Course, titles, positions)),
        modules=st.fixed_dictionaries({module: st.builds(Module, titles, positions, st.none()) for module in MODULES}),
        of_course=st.tuples(*[st.none() | course_ids] * len(MODULES)),
        lessons=st.dictionaries(lesson_ids, lessons, min_size=4, max_size=len(LESSONS)),
        prerequisites=prerequisites,
        completed=st.tuples(*[st.dictionaries(lesson_ids, instants, max_size=8)] * 2),
        access=st.tuples(*[st.sampled_from(["full", "full", "free", "course", "course", "lapsed", None])] * 2),
    )
    def begin(self, plan_mode, courses, modules, of_course, lessons, prerequisites, completed, access):
        self.api = self.apps[plan_mode].test_client(use_cookies=False)
        self.empty_tables()
        for course, row in courses.items():
            self.db.execute("insert into courses (id, title, position) values (%s, %s, %s)", [course, *row])
        self.catalog.courses |= courses
        for user_id, level in zip(LEARNERS, access, strict=True):
            self.db.execute("insert into users (id) values (%s)", [user_id])
            if level == "full":
                self.subscribe(user_id, "active", timedelta(hours=1))
            elif level == "free":  # the learner also has a subscription that has ended
                self.subscribe(user_id, "active", timedelta(hours=-1))
                self.enroll(user_id, None)
            elif level == "course" and courses:
                self.give_course(user_id, min(courses), "", None)
            elif level == "lapsed":
                self.enroll(user_id, timedelta(hours=-1))
        for module, row in modules.items():
            self.db.execute(
                "insert into modules (id, title, position, course_id) values (%s, %s, %s, %s)", [module, *row]
            )
        self.catalog.modules |= modules
        for module, course in zip(MODULES, of_course, strict=True):
            self.move_module(module, course)
        for lesson, row in lessons.items():
            self.add_or_change_lesson(lesson, row)
        for pair in prerequisites:
            self.require(pair)
        for user_id, rows in zip(LEARNERS, completed, strict=True):
            for lesson, at in rows.items():
                self.write_a_row(user_id, lesson, at)

    # Calls

    @rule(user_id=learners, lesson=lesson_ids | st.just(NO_LESSON), at=st.none() | instants, upper=st.booleans())
    def mark(self, user_id, lesson, at, upper):
        body = {"json": {"completedAt": at.isoformat()}} if at else {}
        self._mark(user_id, lesson, at and at.replace(microsecond=at.microsecond // 1000 * 1000), upper, **body)

    @rule(user_id=learners, data=st.data())
    def mark_what_is_left(self, user_id, data):
        learner = self.learners[user_id]
        left = [lesson for lesson in learner.accessible() if lesson not in learner.completed]
        if left:
            self._mark(user_id, data.draw(st.sampled_from(left)), PAST, False, json={"completedAt": PAST.isoformat()})

    @rule(user_id=learners, lesson=lesson_ids, body=st.sampled_from([{}, {"completedAt": None}]), ahead=st.booleans())
    def mark_as_of_now(self, user_id, lesson, body, ahead):
        if ahead:  # by less than five minutes
            body = {"completedAt": (datetime.now(UTC) + timedelta(minutes=4)).isoformat()}
        self._mark(user_id, lesson, None, False, json=body)

    def _mark(self, user_id, lesson, at, upper, **body):
        self.acting = user_id
        before = datetime.now(UTC)
        path = f"/api/progress/lessons/{lesson.upper() if upper else lesson}"
        answer = seen(self.api.post(path, headers=HEADERS[user_id], **body))
        learner = self.learners[user_id]
        if at is None and "code" not in answer and lesson not in learner.completed:
            at = datetime.fromisoformat(answer["completedAt"])
            # The database runs on this machine, so it has the same clock. The service cuts the time to milliseconds.
            assert before - timedelta(milliseconds=1) < at <= datetime.now(UTC)
        assert answer == learner.mark(lesson, at or PAST)

    @rule(user_id=learners, entries=lists_of_marks, upper=st.booleans())
    def mark_lessons(self, user_id, entries, upper):
        self.acting = user_id
        before = datetime.now(UTC)
        listed = [
            {"lessonId": lesson.upper() if upper else lesson, "completedAt": at and at.isoformat()}
            for lesson, at in entries
        ]
        answer = seen(self.api.post("/api/progress/lessons", headers=HEADERS[user_id], json={"lessons": listed}))
        learner = self.learners[user_id]
        ats = {lesson: at.replace(microsecond=at.microsecond // 1000 * 1000) for lesson, at in entries if at}
        for result in answer.get("results", []):
            if result["completed"] and result["lessonId"] not in {*ats, *learner.completed}:
                ats[result["lessonId"]] = at = datetime.fromisoformat(result["completedAt"])
                assert before - timedelta(milliseconds=1) < at <= datetime.now(UTC)
        assert answer == learner.mark_lessons({lesson: ats.get(lesson, PAST) for lesson, _ in entries})

    @rule(user_id=learners, data=st.data())
    def unmark(self, user_id, data):
        self._unmark(user_id, data.draw(st.sampled_from([NO_LESSON, *sorted(self.learners[user_id].completed)])))

    def _unmark(self, user_id, lesson):
        self.acting = user_id
        answer = seen(self.api.delete(f"/api/progress/lessons/{lesson}", headers=HEADERS[user_id]))
        assert answer == self.learners[user_id].unmark(lesson)

    @rule(user_id=learners, path=started_over)
    def start_over(self, user_id, path):
        self.acting = user_id
        answer = seen(self.api.delete(f"/api/progress/{path}", headers=HEADERS[user_id]))
        assert answer == self.learners[user_id].start_over(path)

    # Plain SQL

    @rule(user_id=learners, status=statuses, end=st.none() | hours)
    def subscribe(self, user_id, status, end):
        self.acting = user_id
        ends = end and datetime.now(UTC) + end
        self.db.execute(
            "insert into subscriptions (user_id, status, current_period_end) values (%s, %s, %s) on conflict (user_id)"
            " do update set status = excluded.status, current_period_end = excluded.current_period_end",
            [user_id, status, ends],
        )
        self.learners[user_id].subscription = Subscription(status, ends)

    @rule(user_id=learners, end=st.none() | hours)
    def enroll(self, user_id, end):
        self.acting = user_id
        ends = end and datetime.now(UTC) + end
        self.db.execute(
            "insert into enrollments (user_id, expires_at) values (%s, %s)"
            " on conflict (user_id) do update set expires_at = excluded.expires_at",
            [user_id, ends],
        )
        self.learners[user_id].enrolled, self.learners[user_id].expires_at = True, ends

    @rule(user_id=learners)
    def end_all_access(self, user_id):
        self.acting = user_id
        self.db.execute("delete from subscriptions where user_id = %s", [user_id])
        self.db.execute("delete from enrollments where user_id = %s", [user_id])
        self.db.execute("delete from course_enrollments where user_id = %s", [user_id])
        self.learners[user_id].subscription, self.learners[user_id].enrolled = None, False
        self.learners[user_id].course_enrollments.clear()

    @rule(user_id=learners, course=course_ids, source=sources, end=st.none() | hours)
    def give_course(self, user_id, course, source, end):
        if course in self.catalog.courses:
            self.acting = user_id
            ends = end and datetime.now(UTC) + end
            self.db.execute(
                "insert into course_enrollments (user_id, course_id, source, expires_at) values (%s, %s, %s, %s)"
                " on conflict (user_id, course_id, source) do update set expires_at = excluded.expires_at",
                [user_id, course, source, ends],
            )
            self.learners[user_id].course_enrollments[course, source] = ends

    @rule(user_id=learners, course=course_ids, source=sources)
    def take_course(self, user_id, course, source):
        self.acting = user_id
        self.db.execute(
            "delete from course_enrollments where (user_id, course_id, source) = (%s, %s, %s)",
            [user_id, course, source],
        )
        self.learners[user_id].course_enrollments.pop((course, source), None)

    @rule(course=course_ids, row=st.builds(Course, titles, positions))
    def add_or_change_course(self, course, row):
        self.db.execute(
            "insert into courses (id, title, position) values (%s, %s, %s)"
            " on conflict (id) do update set title = excluded.title, position = excluded.position",
            [course, *row],
        )
        self.catalog.courses[course] = row

    @rule(module=module_ids, course=st.none() | course_ids)
    def move_module(self, module, course):
        if course is None or course in self.catalog.courses:
            self.db.execute("update modules set course_id = %s where id = %s", [course, module])
            self.catalog.modules[module] = self.catalog.modules[module]._replace(course_id=course)

    @rule(user_id=learners)
    def delete_and_add_user(self, user_id):
        self.acting = user_id
        self.db.execute("delete from users where id = %s", [user_id])
        self.db.execute("insert into users (id) values (%s)", [user_id])
        self.learners[user_id] = Learner(self.catalog)

    @rule(lesson=lesson_ids, row=lessons)
    def add_or_change_lesson(self, lesson, row):
        self.db.execute(
            "insert into lessons (id, module_id, title, position, published, is_free) values (%s, %s, %s, %s, %s, %s)"
            " on conflict (id) do update set module_id = excluded.module_id, title = excluded.title,"
            " position = excluded.position, published = excluded.published, is_free = excluded.is_free",
            [lesson, *row],
        )
        self.catalog.lessons[lesson] = row

    @rule(lesson=lesson_ids)
    def publish_or_unpublish(self, lesson):
        if lesson in self.catalog.lessons:
            row = self.catalog.lessons[lesson]
            self.add_or_change_lesson(lesson, row._replace(published=not row.published))

    @rule(lesson=lesson_ids, module=module_ids, position=positions)
    def move(self, lesson, module, position):
        if lesson in self.catalog.lessons:
            self.add_or_change_lesson(
                lesson, self.catalog.lessons[lesson]._replace(module_id=module, position=position)
            )

    @rule(module=module_ids, position=positions)
    def reorder(self, module, position):
        self.db.execute("update modules set position = %s where id = %s", [position, module])
        self.catalog.modules[module] = self.catalog.modules[module]._replace(position=position)

    @rule(pair=pairs)
    def require(self, pair):
        if set(pair) <= set(self.catalog.lessons):
            self.db.execute("insert into lesson_prerequisites values (%s, %s) on conflict do nothing", pair)
            self.catalog.prerequisites.add(pair)

    @precondition(lambda self: self.catalog.prerequisites)
    @rule(data=st.data())
    def require_no_more(self, data):
        pair = data.draw(st.sampled_from(sorted(self.catalog.prerequisites)))
        self.db.execute("delete from lesson_prerequisites where (lesson_id, prerequisite_id) = (%s, %s)", pair)
        self.catalog.prerequisites.remove(pair)

    @rule(user_id=learners, lesson=lesson_ids, at=instants)
    def write_a_row(self, user_id, lesson, at):
        """Insert a row with plain SQL, even if the learner may not take the lesson. Its time has microseconds."""
        self.acting = user_id
        if lesson in self.catalog.lessons:
            self.db.execute(
                "insert into progress (user_id, lesson_id, completed_at) values (%s, %s, %s) on conflict do nothing",
                [user_id, lesson, at],
            )
            self.learners[user_id].completed.setdefault(lesson, at)

    @invariant()
    def every_answer_is_the_models(self):
        (other,) = set(LEARNERS) - {self.acting}
        paths = reads(moduleId=list(MODULES), courseId=list(COURSES))
        # For the other learner, read only the outline: it shows every lesson and every count.
        for user_id, path in [(self.acting, path) for path in paths] + [(other, "outline")]:
            answer = seen(self.api.get(f"/api/progress/{path}", headers=HEADERS[user_id]))
            assert answer == self.learners[user_id].read(path), (path, user_id)
        # Mark a lesson too. The mark is taken back, unless the lesson was completed before.
        lesson, learner = next(self.turns), self.learners[self.acting]
        was_completed = lesson in learner.completed
        self._mark(self.acting, lesson, PAST, False, json={"completedAt": PAST.isoformat()})
        if not was_completed:
            self._unmark(self.acting, lesson)

    @invariant()
    def the_rows_are_the_models(self):
        rows = self.db.execute("select user_id::text, lesson_id::text, completed_at from progress").fetchall()
        completed = {(user, name): at for user, one in self.learners.items() for name, at in one.completed.items()}
        assert {(user, lesson): at for user, lesson, at in rows} == completed


def test_whatever_happens_every_call_answers_as_the_contract_says(apps, db, empty_tables):
    run_state_machine_as_test(
        lambda: World(apps, db, empty_tables),  # type: ignore[arg-type]
        settings=settings(
            max_examples=1000 if DEEP else 100,
            stateful_step_count=15 if DEEP else 6,
            suppress_health_check=list(HealthCheck),
        ),
    )
