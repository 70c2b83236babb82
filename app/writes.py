"""The writes of a learner's progress (contract §3). The calls and the tasks of support run the same functions."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from psycopg.rows import DictRow

from app.database.statements import one
from app.problems import RETRY_AFTER, Problem


class Learner(NamedTuple):
    """Whose progress a write changes, and how its statements run."""

    user_id: str
    # Runs statements, each with its parameters, in one READ COMMITTED transaction. Returns the first row of each.
    transaction: Callable[..., list[DictRow | None]]
    # Adds a learner who is not enrolled, if somebody wants that. Returns whether to write once more.
    add: Callable[[], bool]


def mark(learner: Learner, lesson_id: str, completed_at: str | None) -> str:
    """Mark a lesson as completed. Return the answer of the call, as JSON.

    Raises Problem, as every function here does, with the codes of contract §4 that depend on what is stored.
    """
    parameters = {"lesson_id": lesson_id, "lesson_ids": _array([lesson_id]), "completed_at": completed_at}
    rows = _write(learner, "mark", "complete", "lesson", **parameters)
    return _with_completions(_lesson(rows["mark"], rows["lesson"]), rows["complete"])


def unmark(learner: Learner, lesson_id: str) -> str:
    """Remove the mark of a lesson. Return the answer of the call, as JSON."""
    rows = _write(learner, "unmark", "lesson", lesson_id=lesson_id)
    return _lesson(rows["unmark"], rows["lesson"])


def mark_lessons(learner: Learner, lesson_ids: Iterable[str], completed_ats: Iterable[str | None]) -> str:
    """Mark many lessons as completed, each at its time. Return the answer of the call, as JSON."""
    parameters = {"lesson_ids": _array(lesson_ids), "completed_ats": _array(completed_ats)}
    rows = _write(learner, "mark_lessons", "complete", "marked_lessons", **parameters)
    parts = {"results": one(rows["mark_lessons"])["results"], **one(rows["marked_lessons"])}
    # PostgreSQL has made the JSON of each part.
    answer = "{" + ", ".join(f'"{name}" : {part}' for name, part in parts.items()) + "}"
    return _with_completions(answer, rows["complete"])


def start_module_over(learner: Learner, module_id: str) -> str:
    """Remove the marks of all lessons of a module that the learner may take. Return the answer of the call, as JSON."""
    rows = _write(learner, "start_over_module", "module_counts", module_id=module_id)
    if not one(rows["start_over_module"])["known"]:
        raise Problem("module_not_found")
    return _started_over(rows["start_over_module"], json.loads(one(rows["module_counts"])["answer"]))


def start_course_over(learner: Learner, course_id: str) -> str:
    """Remove the marks of all lessons of a course that the learner may take. Return the answer of the call, as JSON."""
    rows = _write(learner, "start_over_course", "course_counts", course_id=course_id)
    if not one(rows["start_over_course"])["known"]:
        raise Problem("course_not_found")
    return _started_over(rows["start_over_course"], json.loads(one(rows["course_counts"])["answer"]))


def start_all_over(learner: Learner) -> str:
    """Remove the marks of all lessons that the learner may take. Return the answer of the call, as JSON."""
    rows = _write(learner, "start_over_all", "summary")
    return _started_over(rows["start_over_all"], {"overall": json.loads(one(rows["summary"])["answer"])})


def _lesson(outcome: DictRow | None, lesson: DictRow | None) -> str:
    """Return the answer to a mark or an unmark. Raise Problem if it was refused."""
    outcome = one(outcome)
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    answer: str = one(lesson)["answer"]
    return answer


def _with_completions(answer: str, complete: DictRow | None) -> str:
    completions = json.loads(one(complete)["completions"])
    return json.dumps({**json.loads(answer), "completions": completions}) if completions else answer


def _started_over(outcome: DictRow | None, counts: dict[str, Any]) -> str:
    return json.dumps({"removedCount": one(outcome)["removed_count"], **counts})


def _write(learner: Learner, write: str, *names: str, **parameters: str | None) -> dict[str, DictRow | None]:
    """Run lock.sql, a statement that writes, and others after it, in one transaction. Return the row of each, by name.

    Raises Problem not_enrolled or unavailable.
    """
    # One statement after the other, because a statement that waited for the lock still sees the data from before the
    # wait, and because a statement does not see its own writes.
    statements = ("lock", write, *names)
    calls = [(name, {"user_id": learner.user_id, **parameters}) for name in statements]
    rows = dict(zip(statements, learner.transaction(*calls), strict=True))
    enrolled = one(rows[write])["enrolled"]
    # Another call, or the site, may have added the learner after lock.sql ran. Then nothing was locked, and the counts
    # may be wrong. A second write of the same lessons changes no completion.
    if (enrolled and rows["lock"] is None) or (not enrolled and learner.add()):
        first = rows.get("complete")
        rows = dict(zip(statements, learner.transaction(*calls), strict=True))
        # What the first write has completed, the second finds completed.
        if first and first["completions"] != "[]":
            rows["complete"] = first
    if not one(rows[write])["enrolled"]:
        raise Problem("not_enrolled")
    if rows["lock"] is None:
        # Row level security hides the learner's row. Another write of this learner may have run at the same time.
        retry_after = {"Retry-After": RETRY_AFTER}
        raise Problem("unavailable", headers=retry_after, error="lock.sql found no row of the learner")
    return rows


def _array(values: Iterable[str | None]) -> str:
    """Return texts without special characters as an array of PostgreSQL."""
    return "{" + ",".join("null" if value is None else value for value in values) + "}"
