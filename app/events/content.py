"""The content of a write's events (contract §9), made from the rows that the statements of the write have returned."""

from typing import Any

from app.events.outbox import Event, Type

COUNTS = ("percent", "completedCount", "totalCount")


def of_write(
    user_id: str,
    lesson_type: Type,
    lessons: list[dict[str, Any]],
    completions: list[dict[str, Any]],
    counts: dict[str, Any],
) -> list[Event]:
    """Return the events of a write: one for each lesson that it changed, then one for each completion that it made.

    `lessons` are the lessons of the write, each with `lessonId`, `moduleId`, `courseId` (None without a course) and
    `completedAt`. `isNew` is false for a lesson that the write did not change. `completions` are those of the answer.
    `counts` are the counts after the write: `modules` and `courses` are lists, and `overall` is over all lessons.
    """
    modules = {each["moduleId"]: _part(each, "moduleId") for each in counts["modules"]}
    courses = {each["courseId"]: _part(each, "courseId") for each in counts["courses"]}
    course_of = {lesson["moduleId"]: lesson["courseId"] for lesson in lessons}

    def event(type_: Type, about: dict[str, Any], module_id: str | None, course_id: str | None) -> Event:
        data = {"userId": user_id, **about}
        if module_id in modules:
            data["module"] = modules[module_id]
        if course_id in courses:
            data["course"] = courses[course_id]
        return {"type": type_, "data": {**data, "overall": {name: counts["overall"][name] for name in COUNTS}}}

    events = [
        event(
            lesson_type,
            {"lessonId": lesson["lessonId"], "completedAt": lesson["completedAt"]},
            lesson["moduleId"],
            lesson["courseId"],
        )
        for lesson in lessons
        if lesson.get("isNew", True)
    ]
    for completion in completions:
        if "moduleId" in completion:
            module_id = completion["moduleId"]
            events.append(event("module.completed", completion, module_id, course_of.get(module_id)))
        else:
            events.append(event("course.completed", completion, None, completion["courseId"]))
    return events


def _part(counts: dict[str, Any], id_name: str) -> dict[str, Any]:
    return {name: counts[name] for name in (id_name, *COUNTS)}
