"""The writes of a learner's progress (contract §3). The calls and the tasks of support run the same functions."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

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
    return _write_lesson(learner, "mark", lesson_id, completed_at=completed_at)


def unmark(learner: Learner, lesson_id: str) -> str:
    """Remove the mark of a lesson. Return the answer of the call, as JSON."""
    return _write_lesson(learner, "unmark", lesson_id)


def mark_lessons(learner: Learner, lesson_ids: Iterable[str], completed_ats: Iterable[str | None]) -> str:
    """Mark many lessons as completed, each at its time. Return the answer of the call, as JSON."""
    listed = {"lesson_ids": _array(lesson_ids)}
    marks = ("mark_lessons", {**listed, "completed_ats": _array(completed_ats)})
    written, counts = _write(learner, marks, ("marked_lessons", listed))
    parts = {"results": written["results"], **one(counts)}
    # PostgreSQL has made the JSON of each part.
    return "{" + ", ".join(f'"{name}" : {part}' for name, part in parts.items()) + "}"


def start_module_over(learner: Learner, module_id: str) -> str:
    """Remove the marks of all lessons of a module that the learner may take. Return the answer of the call, as JSON."""
    module = {"module_id": module_id}
    removed, counts = _write(learner, ("start_over_module", module), ("module_counts", module))
    if not removed["known"]:
        raise Problem("module_not_found")
    return json.dumps({"removedCount": removed["removed_count"], **json.loads(one(counts)["answer"])})


def start_course_over(learner: Learner, course_id: str) -> str:
    """Remove the marks of all lessons of a course that the learner may take. Return the answer of the call, as JSON."""
    course = {"course_id": course_id}
    removed, counts = _write(learner, ("start_over_course", course), ("course_counts", course))
    if not removed["known"]:
        raise Problem("course_not_found")
    return json.dumps({"removedCount": removed["removed_count"], **json.loads(one(counts)["answer"])})


def start_all_over(learner: Learner) -> str:
    """Remove the marks of all lessons that the learner may take. Return the answer of the call, as JSON."""
    removed, overall = _write(learner, ("start_over_all", {}), ("summary", {}))
    return json.dumps({"removedCount": removed["removed_count"], "overall": json.loads(one(overall)["answer"])})


def _write_lesson(learner: Learner, name: str, lesson_id: str, **parameters: str | None) -> str:
    write = (name, {"lesson_id": lesson_id, **parameters})
    outcome, lesson = _write(learner, write, ("lesson", {"lesson_id": lesson_id}))
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    answer: str = one(lesson)["answer"]
    return answer


def _write(learner: Learner, *calls: tuple[str, Mapping[str, str | None]]) -> tuple[DictRow, DictRow | None]:
    """Run lock.sql, a statement that writes and one that counts, in one transaction. Return the rows of the last two.

    Raises Problem not_enrolled or unavailable.
    """
    user = {"user_id": learner.user_id}
    # Three statements, because a statement that waited for the lock still sees the data from before the wait.
    statements = (("lock", user), *((name, {**user, **parameters}) for name, parameters in calls))
    lock, write, count = learner.transaction(*statements)
    enrolled = one(write)["enrolled"]
    # Another call, or the site, may have added the learner after lock.sql ran. Then nothing was locked, and the counts
    # may be wrong. A second write of the same lessons changes no completion.
    if (enrolled and lock is None) or (not enrolled and learner.add()):
        lock, write, count = learner.transaction(*statements)
    if not one(write)["enrolled"]:
        raise Problem("not_enrolled")
    if lock is None:
        # Row level security hides the learner's row. Another write of this learner may have run at the same time.
        retry_after = {"Retry-After": RETRY_AFTER}
        raise Problem("unavailable", headers=retry_after, error="lock.sql found no row of the learner")
    return one(write), count


def _array(values: Iterable[str | None]) -> str:
    """Return texts without special characters as an array of PostgreSQL."""
    return "{" + ",".join("null" if value is None else value for value in values) + "}"
