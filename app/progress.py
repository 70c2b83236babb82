"""The learner's calls (contract §3). Each view is: check the input, read or write, answer."""

from typing import Any

from flask import Blueprint, Response
from psycopg.rows import DictRow

from app import checks, writes
from app.answers import answer
from app.call import current_call
from app.database.statements import one
from app.new_learners import add_learner
from app.problems import Problem
from app.service import current_service
from app.writes import Learner

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
    """Answer with every accessible lesson: completed, locked or neither. Add the members that `include` names."""
    rows = _read_rows(["outline", *checks.include()])
    document = rows["outline"]["answer"].removesuffix("}")
    if "completions" in rows:
        document += f', "completions" : {rows["completions"]["answer"]}'
    if "courses" in rows:
        # Of `{"courses" : […], "overall" : {…}}`, the part before `overall`. A title in it may have any text.
        document += ", " + rows["courses"]["answer"].removeprefix("{").rpartition(', "overall" : ')[0]
    return answer(document + "}")


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


@blueprint.get("/export")
def export() -> Response:
    """Answer with everything that is stored of the learner. Learners who are not enrolled get an answer too."""
    row = _read_row("export", enrolled_only=False)
    return answer(row["answer"], row["version"])


@blueprint.post("/lessons/<lesson_id>")
def mark(lesson_id: str) -> Response:
    """Mark a lesson as completed."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    return answer(writes.mark(_learner(), lesson_id, checks.mark_body()))


@blueprint.post("/lessons")
def mark_lessons() -> Response:
    """Mark up to 500 lessons as completed. The answer tells the outcome for each of them."""
    checks.idempotency_key()
    return answer(writes.mark_lessons(_learner(), *checks.many_marks_body()))


@blueprint.delete("/lessons/<lesson_id>")
def unmark(lesson_id: str) -> Response:
    """Remove the mark of a lesson."""
    lesson_id = checks.lesson_id(lesson_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return answer(writes.unmark(_learner(), lesson_id))


@blueprint.delete("/modules/<module_id>")
def start_module_over(module_id: str) -> Response:
    """Remove the marks of all lessons of a module that the learner may take."""
    module_id = checks.module_id(module_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return answer(writes.start_module_over(_learner(), module_id))


@blueprint.delete("/courses/<course_id>")
def start_course_over(course_id: str) -> Response:
    """Remove the marks of all lessons of a course that the learner may take."""
    course_id = checks.course_id(course_id)
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    return answer(writes.start_course_over(_learner(), course_id))


@blueprint.delete("/lessons")
def start_all_over() -> Response:
    """Remove the marks of all lessons that the learner may take."""
    checks.idempotency_key()
    checks.body()  # only to refuse a body that is too large
    checks.confirmation()
    return answer(writes.start_all_over(_learner()))


def _read(name: str, enrolled_only: bool = True, **parameters: str) -> Any:
    return _read_row(name, enrolled_only, **parameters)["answer"]


def _read_row(name: str, enrolled_only: bool = True, **parameters: str) -> DictRow:
    return _read_rows([name], enrolled_only, **parameters)[name]


def _read_rows(names: list[str], enrolled_only: bool = True, **parameters: str) -> dict[str, DictRow]:
    """Read with several statements. Each of them says whether the learner is enrolled, and all say the same."""
    parameters["user_id"] = current_call().user_id

    def read() -> dict[str, DictRow]:
        rows = current_service().pool.read_together(names, **parameters)
        return {name: one(row) for name, row in rows.items()}

    rows = read()
    if not rows[names[0]]["enrolled"] and add_learner():
        rows = read()
    if enrolled_only and not rows[names[0]]["enrolled"]:
        raise Problem("not_enrolled")
    return rows


def _learner() -> Learner:
    service = current_service()
    return Learner(
        current_call().user_id, service.pool.transaction, add_learner, service.settings.webhook_url is not None
    )
