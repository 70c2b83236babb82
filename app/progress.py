"""The learner's calls (contract §3). Each view is: check the input, run the statement, answer."""

import json
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
    write, counts = _write("start_over_module", "module_counts", module_id=module_id)
    if not write["known"]:
        raise Problem("module_not_found")
    return _started_over(write, json.loads(counts))


@blueprint.delete("/courses/<course_id>")
def start_course_over(course_id: str) -> Response:
    """Remove the marks of all lessons of a course that the learner may take."""
    course_id = checks.course_id(course_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    write, counts = _write("start_over_course", "course_counts", course_id=course_id)
    if not write["known"]:
        raise Problem("course_not_found")
    return _started_over(write, json.loads(counts))


@blueprint.delete("/lessons")
def start_all_over() -> Response:
    """Remove the marks of all lessons that the learner may take."""
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    checks.confirmation()
    write, overall = _write("start_over_all", "summary")
    return _started_over(write, {"overall": json.loads(overall)})


def _read(name: str, enrolled_only: bool = True, **parameters: str) -> Any:
    parameters["user_id"] = current_call().user_id
    row = one(current_service().pool.read(name, **parameters))
    if not row["enrolled"] and add_learner():
        row = one(current_service().pool.read(name, **parameters))
    if enrolled_only and not row["enrolled"]:
        raise Problem("not_enrolled")
    return row["answer"]


def _write_lesson(name: str, lesson_id: str, **parameters: str | None) -> Response:
    outcome, document = _write(name, "lesson", lesson_id=lesson_id, **parameters)
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    return answer(document)


def _started_over(outcome: DictRow, counts: dict[str, Any]) -> Response:
    return answer(json.dumps({"removedCount": outcome["removed_count"], **counts}))


def _write(name: str, counts: str, **parameters: str | None) -> tuple[DictRow, str]:
    """Run a write, and then the statement that counts. Return the row of the write, and the JSON of the counts."""
    parameters["user_id"] = current_call().user_id
    # Three statements, because a statement that waited for the lock still sees the data from before the wait.
    calls = [(statement, parameters) for statement in ("lock", name, counts)]
    lock, write, counted = current_service().pool.transaction(*calls)
    enrolled = one(write)["enrolled"]
    # Another call, or the site, may have added the learner after lock.sql ran. Then nothing was locked, and the counts
    # may be wrong. The same write again changes no completion.
    if (enrolled and lock is None) or (not enrolled and add_learner()):
        lock, write, counted = current_service().pool.transaction(*calls)
    outcome = one(write)
    if not outcome["enrolled"]:
        raise Problem("not_enrolled")
    if lock is None:
        # Row level security hides the learner's row. Another write of this learner may have run at the same time.
        current_call().error = "lock.sql found no row of the learner"
        raise Problem("unavailable", headers={"Retry-After": RETRY_AFTER})
    # lesson.sql has no row if there is no such lesson.
    return outcome, counted["answer"] if counted else ""
