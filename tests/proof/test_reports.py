"""The files of sql/reports/ on random catalogs and learners: each number is what the model counts."""

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from app.database.statements import STATEMENTS
from tests.conftest import DEEP, MODES
from tests.proof.model import Catalog, Learner
from tests.proof.test_worlds import build, draw
from tests.world import uuid4

IDS = [uuid4(number) for number in random.Random(1).sample(range(100), 8)]
DAY = timedelta(days=1)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", params=MODES)
def session(request: pytest.FixtureRequest, database_url: str) -> Iterator[psycopg.Connection]:
    """Yield a session of one kind of plan. Its time zone and the form of its dates are unusual."""
    settings = f"-c%20plan_cache_mode%3D{request.param}%20-c%20timezone%3DPacific/Kiritimati%20-c%20datestyle%3DSQL,DMY"
    url = f"{database_url}&options={settings}"
    with closing(psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor)) as connection:
        yield connection


def report(session: psycopg.Connection, name: str, **given: str | None) -> Rows:
    statement = STATEMENTS[f"reports/{name}"]
    with session.cursor(row_factory=dict_row) as cursor:
        values = [given.get(parameter) or "" for parameter in statement.parameters]
        rows = cursor.execute(statement.query, values, prepare=True).fetchall()
    return [
        {
            key: str(value) if key.endswith("id") and value else float(value) if isinstance(value, Decimal) else value
            for key, value in row.items()
        }
        for row in rows
    ]


def move_times(draws: random.Random, learners: dict[str, Learner]) -> None:
    """Spread the completions over days, around midnight in UTC, and for some learners up to 14 days before now."""
    now = datetime.now(UTC)
    for learner in learners.values():
        newest = now - 14 * DAY + draws.choice([-3, -1, 1]) * timedelta(minutes=10)
        for lesson, at in learner.completed.items():
            days = draws.choice([0, 0, 1, 2, 9]) * DAY
            midnight = newest.replace(hour=0, minute=0, second=0, microsecond=0)
            learner.completed[lesson] = draws.choice(
                [newest - days, midnight - days, midnight - days - timedelta(milliseconds=1), at]
            )


def complete_parts(
    draws: random.Random, db: psycopg.Connection, catalog: Catalog, learners: dict[str, Learner]
) -> None:
    """Let learners have completed modules and courses, some of them twice, and started some over."""
    for kind, parts in (("module", catalog.modules), ("course", catalog.courses)):
        for part in parts:
            for id, learner in learners.items():
                times = {datetime(2026, 1, day, 23, 59, 59, 999000, UTC): False for day in draws.sample([1, 2, 3], k=2)}
                times = dict(list(times.items())[: draws.choice([0, 0, 1, 2])])
                if times and draws.random() < 0.5:
                    times[max(times)] = True
                learner.finished[kind, part] = times
                db.cursor().executemany(
                    f"insert into {kind}_completions (user_id, {kind}_id, completed_at, started_over_at)"
                    " values (%s, %s, %s, case when %s then null else now() end)",
                    [(id, part, at, is_open) for at, is_open in times.items()],
                )


def day(at: datetime | None) -> str | None:
    return at.astimezone(UTC).date().isoformat() if at else None


class Expected:
    """What the model counts, of one course or of everything."""

    def __init__(self, catalog: Catalog, learners: dict[str, Learner], course: str | None) -> None:
        self.catalog, self.learners, self.course = catalog, learners, course
        self.lesson_ids = sorted(
            (one for one in catalog.lessons if course in (None, catalog.course_of(one))), key=catalog.place
        )
        # What each learner completed of these lessons.
        self.completed = {
            id: {lesson: at for lesson, at in learner.completed.items() if lesson in self.lesson_ids}
            for id, learner in learners.items()
        }

    def where(self, lesson: str) -> dict[str, Any]:
        row = self.catalog.lessons[lesson]
        return {
            **self.module(row.module_id),
            "lesson_id": lesson,
            "lesson_title": row.title,
        }

    def module(self, module: str) -> dict[str, Any]:
        row = self.catalog.modules[module]
        title = self.catalog.courses[row.course_id].title if row.course_id else None
        return {"course_id": row.course_id, "course_title": title, "module_id": module, "module_title": row.title}

    def lessons(self) -> Rows:
        rows = []
        for lesson in self.lesson_ids:
            days = [(own[lesson] - min(own.values())) / DAY for own in self.completed.values() if lesson in own]
            if days or self.catalog.lessons[lesson].published:
                access = sum(learner.is_accessible(lesson) for learner in self.learners.values())
                median = pytest.approx(statistics.median(days), abs=0.0501) if days else None
                counts = {"access_count": access, "completed_count": len(days), "median_days": median}
                rows.append(self.where(lesson) | counts)
        return rows

    def parts(self, kind: str, ids: list[str], rows: dict[str, dict[str, Any]]) -> Rows:
        found = []
        for id in ids:
            lessons = [
                one
                for one, row in self.catalog.lessons.items()
                if id == (row.module_id if kind == "module" else self.catalog.course_of(one))
            ]
            finished = {user for user, learner in self.learners.items() if learner.finished[kind, id]}
            began = {
                user for user, learner in self.learners.items() if set(lessons) & set(learner.completed)
            } | finished
            published = sum(self.catalog.lessons[lesson].published for lesson in lessons)
            if published or began:
                found.append(
                    rows[id] | {"lesson_count": published, "began_count": len(began), "finished_count": len(finished)}
                )
        return found

    def modules(self) -> Rows:
        modules = self.catalog.modules
        ids = [id for id in modules if self.course in (None, modules[id].course_id)]
        return self.parts(
            "module", sorted(ids, key=self.catalog.place_of_module), {id: self.module(id) for id in modules}
        )

    def courses(self) -> Rows:
        courses = self.catalog.courses
        ids = sorted(courses, key=lambda id: (courses[id].position, id))
        return self.parts("course", ids, {id: {"course_id": id, "course_title": courses[id].title} for id in ids})

    def of_learners(self) -> Rows:
        rows = []
        for id, learner in self.learners.items():
            accessible, times = learner.accessible(course=self.course), self.completed[id].values()
            if accessible or times:
                counts = learner.counts(accessible)
                last = max(times, default=None)
                row = {
                    "user_id": id,
                    "percent": counts["percent"],
                    "completed_count": counts["completedCount"],
                    "total_count": counts["totalCount"],
                    "first_day": day(min(times, default=None)),
                    "last_day": day(last),
                }
                rows.append(((-counts["percent"], -last.timestamp() if last else 0, id), row))
        return [row for _, row in sorted(rows, key=lambda pair: pair[0])]

    def days(self, since: str = "") -> Rows:
        marks = [(day(at), id) for id, own in self.completed.items() for at in own.values()]
        completions, learners = Counter(one for one, _ in marks), Counter(one for one, _ in set(marks))
        return [
            {"day": one, "completion_count": completions[one], "learner_count": learners[one]}
            for one in sorted(map(str, completions))
            if str(one) >= since
        ]

    def stuck(self) -> Rows:
        counts: Counter[str] = Counter()
        for id, learner in self.learners.items():
            last = max(self.completed[id].values(), default=None)
            if last and last < datetime.now(UTC) - 14 * DAY:
                lesson = learner.next_of(learner.accessible(course=self.course))["lessonId"]
                counts.update([lesson] if lesson else [])
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], self.catalog.place(pair[0])))
        return [self.where(lesson) | {"learner_count": count} for lesson, count in ordered]

    def completions(self, since: str = "") -> Rows:
        rows = []
        for user, learner in self.learners.items():
            for (kind, id), times in learner.finished.items():
                row = self.catalog.modules[id] if kind == "module" else self.catalog.courses[id]
                of = self.catalog.modules[id].course_id if kind == "module" else id
                if self.course in (None, of):
                    rows += [
                        (at, kind == "course", id, user, {"kind": kind, "title": row.title})
                        for at in times
                        if str(day(at)) >= since
                    ]
        return [
            {"day": day(at), "user_id": user, "id": id} | more
            for at, _, id, user, more in sorted(rows, key=lambda row: row[:4])
        ]


@pytest.mark.parametrize("seed", range(300 if DEEP else 8))
def test_every_report_has_the_numbers_that_the_model_counts(session, db, seed):
    catalog, learners = draw(seed, IDS)
    draws = random.Random(seed)
    move_times(draws, learners)
    build(db, catalog, learners)
    complete_parts(draws, db, catalog, learners)
    for course in (None, *catalog.courses):
        expected = Expected(catalog, learners, course)
        for name in ("lessons", "modules", "stuck", "days", "completions"):
            assert report(session, name, course_id=course) == getattr(expected, name)(), name
        if course:
            assert report(session, "learners", course_id=course) == expected.of_learners()
        for name, since in (("days", str(datetime.now(UTC).date() - 14 * DAY)), ("completions", "2026-01-02")):
            assert report(session, name, course_id=course, since=since) == getattr(expected, name)(since), name
    assert report(session, "courses") == Expected(catalog, learners, None).courses()
