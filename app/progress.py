"""The learner's calls (contract §3). Each view is: check the input, run the statement, answer."""

import json
from typing import Any

from flask import Blueprint, Response

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


@blueprint.get("/completions")
def completions() -> Response:
    """Answer which modules and courses the learner has completed. Learners who are not enrolled get an answer too."""
    return answer(_read("completions", enrolled_only=False))


@blueprint.post("/lessons/<lesson_id>")
def mark(lesson_id: str) -> Response:
    """Mark a lesson as completed."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    return _write("mark", "complete", lesson_id=lesson_id, completed_at=checks.mark_body())


@blueprint.delete("/lessons/<lesson_id>")
def unmark(lesson_id: str) -> Response:
    """Remove the mark of a lesson."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return _write("unmark", lesson_id=lesson_id)


def _read(name: str, enrolled_only: bool = True, **parameters: str) -> Any:
    parameters["user_id"] = current_call().user_id
    row = one(current_service().pool.read(name, **parameters))
    if not row["enrolled"] and add_learner():
        row = one(current_service().pool.read(name, **parameters))
    if enrolled_only and not row["enrolled"]:
        raise Problem("not_enrolled")
    return row["answer"]


def _write(*names: str, lesson_id: str, **parameters: str | None) -> Response:
    parameters |= {"user_id": current_call().user_id, "lesson_id": lesson_id, "lesson_ids": f"{{{lesson_id}}}"}
    # One statement after the other, because a statement that waited for the lock still sees the data from before the
    # wait, and because a statement does not see its own writes.
    calls = [(name, parameters) for name in ("lock", *names, "lesson")]
    lock, write, *complete, lesson = current_service().pool.transaction(*calls)
    enrolled = one(write)["enrolled"]
    # Another call, or the site, may have added the learner after lock.sql ran. Then nothing was locked, and the counts
    # may be wrong. A second write of the same lesson changes nothing. The first one may have completed a module, and the
    # second then finds it completed. So the answer has the completions of both.
    if (enrolled and lock is None) or (not enrolled and add_learner()):
        lock, write, *again, lesson = current_service().pool.transaction(*calls)
        complete += again
    outcome = one(write)
    if not outcome["enrolled"]:
        raise Problem("not_enrolled")
    if lock is None:
        # Row level security hides the learner's row. Another write of this learner may have run at the same time.
        current_call().error = "lock.sql found no row of the learner"
        raise Problem("unavailable", headers={"Retry-After": RETRY_AFTER})
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    document = one(lesson)["answer"]
    made = [made for row in complete for made in json.loads(one(row)["completions"])]
    return answer(json.dumps({**json.loads(document), "completions": made}) if made else document)
