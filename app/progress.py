"""The learner's calls of contract §3: check, statement, answer."""

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
    """How far the learner is over everything they may take."""
    return answer(_read("summary"))


@blueprint.get("/modules/<module_id>")
def module(module_id: str) -> Response:
    """How far the learner is in one module, and its eligible lessons."""
    document = _read("module", module_id=checks.module_id(module_id))
    if document is None:
        raise Problem("module_not_found")
    return answer(document)


@blueprint.get("/lessons")
def lessons() -> Response:
    """The eligible lessons that the learner has completed."""
    return answer(_read("lessons"))


@blueprint.get("/modules")
def modules() -> Response:
    """How far the learner is in each of their modules, and overall."""
    return answer(_read("modules"))


@blueprint.get("/outline")
def outline() -> Response:
    """Every lesson that the learner may take, and how it stands."""
    return answer(_read("outline"))


@blueprint.get("/next")
def next_lesson() -> Response:
    """The lesson to go on with."""
    return answer(_read("next"))


@blueprint.get("/access")
def access() -> Response:
    """What access the learner has, and until when. Learners who are not enrolled get an answer too."""
    return answer(_read("access", enrolled_only=False))


@blueprint.post("/lessons/<lesson_id>")
def mark(lesson_id: str) -> Response:
    """Mark a lesson as completed."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    return _write("mark", lesson_id=lesson_id, completed_at=checks.mark_body())


@blueprint.delete("/lessons/<lesson_id>")
def unmark(lesson_id: str) -> Response:
    """Take the mark of a lesson back."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    checks.body()  # for its size alone
    return _write("unmark", lesson_id=lesson_id)


def _read(name: str, enrolled_only: bool = True, **parameters: str) -> Any:
    parameters["user_id"] = current_call().user_id
    row = one(current_service().pool.read(name, **parameters))
    if not row["enrolled"] and add_learner():
        row = one(current_service().pool.read(name, **parameters))
    if enrolled_only and not row["enrolled"]:
        raise Problem("not_enrolled")
    return row["answer"]


def _write(name: str, lesson_id: str, **parameters: str | None) -> Response:
    learner: dict[str, str | None] = {"user_id": current_call().user_id}
    # Three statements, since one that waited for the lock keeps the view of the data it had before the wait.
    calls = (
        ("lock", learner),
        (name, {**learner, "lesson_id": lesson_id, **parameters}),
        ("lesson", {**learner, "lesson_id": lesson_id}),
    )
    lock, write, lesson = current_service().pool.transaction(*calls)
    if not one(write)["enrolled"] and add_learner():
        lock, write, lesson = current_service().pool.transaction(*calls)
    outcome = one(write)
    if not outcome["enrolled"]:
        raise Problem("not_enrolled")
    if lock is None:
        # Row level security hides the learner's row, or the learner was added since. Writes at the same time would not
        # have waited, so that the counts may be wrong.
        current_call().error = "the lock of the learner's row found none"
        raise Problem("unavailable", headers={"Retry-After": RETRY_AFTER})
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    return answer(one(lesson)["answer"])
