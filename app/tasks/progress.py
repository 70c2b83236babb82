"""The task make progress: what a learner sees, for those who help them. It runs the statements of the calls."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import IsolationLevel

from app.database import statements
from app.database.statements import array, one
from app.tasks import learners, quoted
from app.tasks.terminal import COLUMNS, cut

MAX_LISTED = 100  # modules; lessons that are locked; lessons that do not count
MAX_LATEST = 10

Row = tuple[str, ...]  # the last cell is a title


def shown(connection: psycopg.Connection[Any], user_id: str, prices: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines about a learner. `prices` is the setting STRIPE_PRICES. Raises TaskError if there is no learner.

    In a large catalog, the lists have what the learner meets next, and say how much they leave out.
    """
    # All statements see the same rows, so the parts agree with each other while the learner goes on.
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    with connection.transaction():
        access = list(learners.access(connection, user_id, prices))
        calls = ("outline", "courses", "next", "completions")
        rows = {name: one(statements.run(connection, name, user_id=user_id).fetchone()) for name in calls}
        uncounted = statements.run(connection, "admin/uncounted", user_id=user_id).fetchall()
        events = one(statements.run(connection, "admin/learner_events", user_id=user_id).fetchone())
        outline = json.loads(rows["outline"]["answer"])  # outline.sql returns text, the others JSON
        courses, next_lesson, completions = (rows[name]["answer"] for name in calls[1:])
        lessons = {lesson["lessonId"]: lesson for module in outline["modules"] for lesson in module["lessons"]}
        ids = {id for lesson in lessons.values() for id in lesson["prerequisites"]}
        ids |= {row[f"{kind}Id"] for kind in ("module", "course") for row in completions[f"{kind}s"]}
        titles = {row["id"]: row["title"] for row in statements.run(connection, "admin/titles", ids=array(ids))}
        begun_courses = [course["courseId"] for course in courses["courses"] if course["completedCount"]]
        next_lessons = {id: _next_of_course(connection, user_id, id) for id in begun_courses}

    yield f"learner {user_id}"
    for line in access:
        yield from textwrap.wrap(line, COLUMNS, subsequent_indent="  ")
    if rows["outline"]["enrolled"]:
        yield f"overall: {', '.join(filter(None, _counts(outline['overall'])))}"
        yield from _next(next_lesson["lessonId"], next_lessons, lessons)
        yield from _latest(lessons)
        begun = [
            module
            for module in outline["modules"]
            if module["completedCount"] or module["moduleId"] == next_lesson["moduleId"]
        ]
        yield from _modules(outline["modules"], courses["courses"], begun)
        yield from _locked(lessons, begun, titles)
    else:
        yield "the calls of progress answer 403 not_enrolled"
    yield from _uncounted(uncounted)
    yield from _completions(completions, titles)
    if events["waiting"]:
        yield f"events: {events['waiting']} waiting, the oldest since {events['since']}; see: make events"
    if events["given_up"]:
        yield f"events: {events['given_up']} given up; see: make events"


def _next_of_course(connection: psycopg.Connection[Any], user_id: str, course_id: str) -> str | None:
    row = one(statements.run(connection, "course", user_id=user_id, course_id=course_id).fetchone())
    lesson_id: str | None = row["answer"]["next"]["lessonId"]
    return lesson_id


def _next(lesson_id: str | None, of_courses: dict[str, str | None], lessons: dict[str, Any]) -> Iterator[str]:
    yield cut(
        f"next: {lesson_id}  {quoted(lessons[lesson_id]['title'])}" if lesson_id else "next: nothing is left", COLUMNS
    )
    rows = [(course, id, lessons[id]["title"]) for course, id in of_courses.items() if id]
    yield from _list("next in each course that is begun:", rows)


def _latest(lessons: dict[str, Any]) -> Iterator[str]:
    """Yield the lessons that were completed last. Of several at one time, the last in catalog order is the latest."""
    completed = [lesson for lesson in lessons.values() if lesson["completedAt"]]
    completed.sort(key=lambda lesson: lesson["completedAt"])
    latest = reversed(completed[-MAX_LATEST:])
    rows = [(lesson["completedAt"], lesson["lessonId"], lesson["title"]) for lesson in latest]
    yield from _list("completed last:", rows, len(completed) - len(rows))


def _modules(modules: list[Any], courses: list[Any], begun: list[Any]) -> Iterator[str]:
    """Yield how far the learner is in each course and each module. Of many modules, only in those that are begun."""
    listed = begun if len(modules) > MAX_LISTED else modules
    rows = [(module["moduleId"], *_counts(module), module["title"]) for module in listed if not module["courseId"]]
    for course in courses:
        rows.append((course["courseId"], *_counts(course), course["title"]))
        within = (module for module in listed if module["courseId"] == course["courseId"])
        rows += ((f"  {module['moduleId']}", *_counts(module), module["title"]) for module in within)
    heading = "courses and modules:" if courses else "modules:"
    yield from _list(heading, rows, len(modules) - len(listed), "modules that are not begun")


def _counts(document: dict[str, Any]) -> Row:
    locked = document["lockedCount"]
    counts = f"{document['completedCount']} of {document['totalCount']}"
    return counts, f"{document['percent']} %", f"{locked} locked" if locked else ""


def _locked(lessons: dict[str, Any], begun: list[Any], titles: dict[str, str]) -> Iterator[str]:
    """Yield each locked lesson with the lessons to complete first.

    Of many, only those that wait for a lesson that is not locked itself, the ones in begun modules first. All others
    wait for one of these.
    """

    def state(lesson_id: str) -> str:
        return lessons[lesson_id]["state"] if lesson_id in lessons else "no access"

    locked = listed = [lesson for lesson in lessons.values() if lesson["state"] == "locked"]
    if len(locked) > MAX_LISTED:
        listed = [lesson for lesson in locked if any(state(id) != "locked" for id in lesson["prerequisites"])]
        near = {lesson["lessonId"] for module in begun for lesson in module["lessons"]}
        listed = sorted(listed, key=lambda lesson: lesson["lessonId"] not in near)[:MAX_LISTED]
    rows: list[Row] = []
    for lesson in listed:
        rows.append((lesson["lessonId"], "", lesson["title"]))
        rows += ((f"  {id}", state(id), titles[id]) for id in lesson["prerequisites"])
    yield from _list("locked, each with the lessons to complete first:", rows, len(locked) - len(listed))


def _uncounted(uncounted: list[Any]) -> Iterator[str]:
    rows = [
        (row["completed_at"], row["lesson_id"], "no access" if row["published"] else "unpublished", row["title"])
        for row in uncounted[:MAX_LISTED]
    ]
    yield from _list("completed, but not counted:", rows, len(uncounted) - len(rows))


def _completions(completions: dict[str, Any], titles: dict[str, str]) -> Iterator[str]:
    rows = [
        (row["completedAt"], kind, row[f"{kind}Id"], titles[row[f"{kind}Id"]])
        for kind in ("module", "course")
        for row in completions[f"{kind}s"]
    ]
    yield from _list("completed once as a whole:", rows)


def _list(heading: str, rows: Sequence[Row], left_out: int = 0, of: str = "more") -> Iterator[str]:
    """Yield a heading and the rows, with their cells below each other; nothing if there is nothing to list."""
    if not rows and not left_out:
        return
    yield heading
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for *cells, title in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False) if width]
        yield cut("  ".join(["", *padded, quoted(title)]), COLUMNS)
    if left_out:
        yield f"  and {left_out} {of}"
