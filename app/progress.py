"""The learner's calls (contract §3). Each view is: check the input, run the statement, answer."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Response
from psycopg.rows import DictRow

from app import checks
from app.answers import answer
from app.call import current_call
from app.database.statements import one
from app.new_learners import add_learner
from app.problems import RETRY_AFTER, Problem
from app.service import current_service

blueprint = Blueprint("progress", __name__, url_prefix="/api/progress")


@blueprint.get("/summary")
def summary() -> Response:
    """Answer how far the learner is, over all lessons that the learner may take."""
    return answer(_read("summary"))


@blueprint.get("/modules/<module_id>")
def module(module_id: str) -> Response:
    """Answer how far the learner is in one module, with its eligible lessons."""
    document = _read("module", module_id=checks.module_id(module_id))
    if document is None:
        raise Problem("module_not_found")
    return answer(document)


@blueprint.get("/lessons")
def lessons() -> Response:
    """Answer with the eligible lessons that the learner has completed."""
    return answer(_read("lessons"))


@blueprint.get("/modules")
def modules() -> Response:
    """Answer how far the learner is in each accessible module, and overall."""
    return answer(_read("modules"))


@blueprint.get("/outline")
def outline() -> Response:
    """Answer with every accessible lesson: completed, locked or neither."""
    return answer(_read("outline"))


@blueprint.get("/courses")
def courses() -> Response:
    """Answer how far the learner is in each accessible course, and overall."""
    return answer(_read("courses"))


@blueprint.get("/courses/<course_id>")
def course(course_id: str) -> Response:
    """Answer with everything that the page of a course shows, the lesson to continue with included."""
    document = _read("course", course_id=checks.course_id(course_id))
    if document is None:
        raise Problem("course_not_found")
    return answer(document)


@blueprint.get("/next")
def next_lesson() -> Response:
    """Answer with the lesson that the learner should take next."""
    return answer(_read("next"))


@blueprint.get("/access")
def access() -> Response:
    """Answer what access the learner has, and until when. Learners who are not enrolled get an answer too."""
    return answer(_read("access", enrolled_only=False))


@blueprint.post("/lessons/<lesson_id>")
def mark(lesson_id: str) -> Response:
    """Mark a lesson as completed."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    return _write_lesson("mark", lesson_id, completed_at=checks.mark_body())


@blueprint.post("/lessons")
def mark_lessons() -> Response:
    """Mark up to 500 lessons as completed. The answer tells the outcome for each of them."""
    checks.idempotency_key()
    lesson_ids, completed_ats = checks.many_marks_body()
    listed = {"lesson_ids": _array(lesson_ids)}
    written, counts = _write(
        ("mark_lessons", {**listed, "completed_ats": _array(completed_ats)}), ("marked_lessons", listed)
    )
    parts = {"results": written["results"], **one(counts)}
    # PostgreSQL has made the JSON of each part.
    return answer("{" + ", ".join(f'"{name}" : {part}' for name, part in parts.items()) + "}")


@blueprint.delete("/lessons/<lesson_id>")
def unmark(lesson_id: str) -> Response:
    """Remove the mark of a lesson."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return _write_lesson("unmark", lesson_id)


@blueprint.delete("/modules/<module_id>")
def start_module_over(module_id: str) -> Response:
    """Remove the marks of all lessons of a module that the learner may take."""
    module_id = checks.module_id(module_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return _start_over("start_over_module", "module_counts", "module_not_found", {"module_id": module_id})


@blueprint.delete("/courses/<course_id>")
def start_course_over(course_id: str) -> Response:
    """Remove the marks of all lessons of a course that the learner may take."""
    course_id = checks.course_id(course_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return _start_over("start_over_course", "course_counts", "course_not_found", {"course_id": course_id})


@blueprint.delete("/lessons")
def start_all_over() -> Response:
    """Remove the marks of all lessons that the learner may take."""
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    checks.confirmation()
    removed, overall = _write(("start_over_all", {}), ("summary", {}))
    parts = {"removedCount": removed["removed_count"], "overall": json.loads(one(overall)["answer"])}
    return answer(json.dumps(parts))


def _read(name: str, enrolled_only: bool = True, **parameters: str) -> Any:
    parameters["user_id"] = current_call().user_id
    row = one(current_service().pool.read(name, **parameters))
    if not row["enrolled"] and add_learner():
        row = one(current_service().pool.read(name, **parameters))
    if enrolled_only and not row["enrolled"]:
        raise Problem("not_enrolled")
    return row["answer"]


def _write_lesson(name: str, lesson_id: str, **parameters: str | None) -> Response:
    outcome, lesson = _write((name, {"lesson_id": lesson_id, **parameters}), ("lesson", {"lesson_id": lesson_id}))
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    return answer(one(lesson)["answer"])


def _start_over(name: str, counts: str, not_found: str, id: dict[str, str]) -> Response:
    removed, counted = _write((name, id), (counts, id))
    if not removed["known"]:
        raise Problem(not_found)
    return answer(json.dumps({"removedCount": removed["removed_count"], **json.loads(one(counted)["answer"])}))


def _write(*calls: tuple[str, Mapping[str, str | None]]) -> tuple[DictRow, DictRow | None]:
    """Run lock.sql, a statement that writes and one that counts, in one transaction. Return the rows of the last two.

    Raises Problem not_enrolled or unavailable.
    """
    learner: dict[str, str | None] = {"user_id": current_call().user_id}
    # Three statements, because a statement that waited for the lock still sees the data from before the wait.
    statements = (("lock", learner), *((name, {**learner, **parameters}) for name, parameters in calls))
    lock, write, count = current_service().pool.transaction(*statements)
    enrolled = one(write)["enrolled"]
    # Another call, or the site, may have added the learner after lock.sql ran. Then nothing was locked, and the counts
    # may be wrong. A second write of the same lessons changes no completion.
    if (enrolled and lock is None) or (not enrolled and add_learner()):
        lock, write, count = current_service().pool.transaction(*statements)
    if not one(write)["enrolled"]:
        raise Problem("not_enrolled")
    if lock is None:
        # Row level security hides the learner's row. Another write of this learner may have run at the same time.
        current_call().error = "lock.sql found no row of the learner"
        raise Problem("unavailable", headers={"Retry-After": RETRY_AFTER})
    return one(write), count


def _array(values: Iterable[str | None]) -> str:
    """Return texts without special characters as an array of PostgreSQL."""
    return "{" + ",".join("null" if value is None else value for value in values) + "}"
