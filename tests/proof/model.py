"""Contract §2 and §3 in plain Python: what every call must answer. It has no SQL and uses no code of the service."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple


class Course(NamedTuple):
    title: str
    position: int


class Module(NamedTuple):
    title: str
    position: int
    course_id: str | None = None


class Lesson(NamedTuple):
    module_id: str
    title: str
    position: int
    published: bool
    is_free: bool


class Subscription(NamedTuple):
    status: str
    current_period_end: datetime | None


def timestamp(instant: datetime) -> str:
    """Return an instant as an answer shows it."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Catalog:
    modules: dict[str, Module] = field(default_factory=dict)
    lessons: dict[str, Lesson] = field(default_factory=dict)
    prerequisites: set[tuple[str, str]] = field(default_factory=set)  # (lesson, what must be completed first)
    courses: dict[str, Course] = field(default_factory=dict)

    def course_of(self, lesson: str) -> str | None:
        """Return the course of the lesson's module, if the module is in a course."""
        return self.modules[self.lessons[lesson].module_id].course_id

    def place_of_module(self, module: str) -> tuple[Any, ...]:
        """Return the key by which modules are sorted in catalog order. Modules without a course come first."""
        row = self.modules[module]
        course = (self.courses[row.course_id].position, row.course_id) if row.course_id else ()
        return course, row.position, module

    def place(self, lesson: str) -> tuple[Any, ...]:
        """Return the key by which lessons are sorted in catalog order."""
        row = self.lessons[lesson]
        return *self.place_of_module(row.module_id), row.position, lesson


@dataclass
class Learner:
    catalog: Catalog
    subscription: Subscription | None = None
    enrolled: bool = False
    expires_at: datetime | None = None
    completed: dict[str, datetime] = field(default_factory=dict)
    # When each source of each course ends: (course, source).
    course_enrollments: dict[tuple[str, str], datetime | None] = field(default_factory=dict)
    # When a module or a course was completed, and whether that completion is open: ("module" or "course", id).
    finished: dict[tuple[str, str], dict[datetime, bool]] = field(default_factory=dict)

    # Contract §2

    def is_enrolled(self) -> bool:
        return self.is_full() or self.is_free() or bool(self.courses_until())

    def courses_until(self) -> dict[str, datetime | None]:
        """The courses that the learner has now, in catalog order, each with the time at which the last source ends."""
        now = datetime.now(UTC)
        ends: dict[str, list[datetime | None]] = {}
        for (course, _), end in self.course_enrollments.items():
            if end is None or end > now:
                ends.setdefault(course, []).append(end)
        courses = self.catalog.courses
        return {
            course: None if None in ends[course] else max(end for end in ends[course] if end)
            for course in sorted(ends, key=lambda course: (courses[course].position, course))
        }

    def is_full(self) -> bool:
        status, end = self.subscription or ("none", None)
        return status in ("active", "trialing") and end is not None and end > datetime.now(UTC)

    def is_free(self) -> bool:
        return self.enrolled and (self.expires_at is None or self.expires_at > datetime.now(UTC))

    def is_accessible(self, lesson: str) -> bool:
        row = self.catalog.lessons[lesson]
        has_course = self.catalog.course_of(lesson) in self.courses_until()
        return row.published and (self.is_full() or has_course or (self.is_free() and row.is_free))

    def keeping_locked(self, lesson: str) -> list[str]:
        """Return the lessons that keep a lesson locked, in catalog order. Without any, it is not locked."""
        if lesson in self.completed:
            return []
        needed = {needed for locked, needed in self.catalog.prerequisites if locked == lesson}
        due = (one for one in needed if self.catalog.lessons[one].published and one not in self.completed)
        return sorted(due, key=self.catalog.place)

    def accessible(self, module: str | None = None, course: str | None = None) -> list[str]:
        """Return the lessons that the learner may take, of one module, of one course or of all, in catalog order."""
        lessons = self.catalog.lessons
        of = (
            one
            for one in lessons
            if module in (None, lessons[one].module_id)
            and course in (None, self.catalog.course_of(one))
            and self.is_accessible(one)
        )
        return sorted(of, key=self.catalog.place)

    def counts(self, accessible: list[str]) -> dict[str, int]:
        eligible = [lesson for lesson in accessible if not self.keeping_locked(lesson)]
        total = len(eligible)
        completed = sum(lesson in self.completed for lesson in eligible)
        percent = 100 * completed // total if total else 0
        return {"percent": percent, "completedCount": completed, "totalCount": total}

    def counts_with_locked(self, accessible: list[str]) -> dict[str, int]:
        return self.counts(accessible) | {"lockedCount": sum(bool(self.keeping_locked(one)) for one in accessible)}

    def shown(self, lesson: str) -> str | None:
        return timestamp(self.completed[lesson]) if lesson in self.completed else None

    def module_ids(self) -> list[str]:
        """Return the modules with a lesson that the learner may take, in catalog order."""
        return sorted(filter(self.accessible, self.catalog.modules), key=self.catalog.place_of_module)

    def course_ids(self) -> list[str]:
        """Return the courses with a lesson that the learner may take, in catalog order."""
        courses = self.catalog.courses
        accessible = (course for course in courses if self.accessible(course=course))
        return sorted(accessible, key=lambda course: (courses[course].position, course))

    # Contract §3 and §4: the document of a success, or the members of an error that tell it from other errors

    def read(self, path: str) -> dict[str, Any]:
        """Return the answer to a GET below /api/progress/."""
        if path == "access":
            return self.access_answer()  # learners who are not enrolled get an answer too
        if path == "completions":
            return self.completions()
        if path == "export":
            return self.export()
        if not self.is_enrolled():
            return {"code": "not_enrolled"}
        name, _, id = path.partition("/")
        if id:
            return {"modules": self.module, "courses": self.course}[name](id)
        answer: dict[str, Any] = getattr(self, name)()
        return answer

    def access_answer(self) -> dict[str, Any]:
        full, free = self.is_full(), self.is_free()
        until = (
            self.subscription.current_period_end if full and self.subscription else self.expires_at if free else None
        )
        courses = [{"courseId": id, "until": end and timestamp(end)} for id, end in self.courses_until().items()]
        return {"full": full, "free": free, "courses": courses, "until": until and timestamp(until)}

    def completions(self) -> dict[str, Any]:
        return {
            f"{kind}s": [
                {f"{kind}Id": id, "completedAt": at}
                for at, id in sorted(
                    (timestamp(at), id) for (each, id), times in self.finished.items() if each == kind for at in times
                )
            ]
            for kind in ("module", "course")
        }

    def export(self) -> dict[str, Any]:
        """Return what known_of_export() returns: the progress alone."""
        lessons = self.catalog.lessons
        return {
            "lessons": [
                {
                    "lessonId": lesson,
                    "title": lessons[lesson].title,
                    "moduleId": lessons[lesson].module_id,
                    "courseId": self.catalog.course_of(lesson),
                    "completedAt": at,
                }
                for at, lesson in sorted((timestamp(at), lesson) for lesson, at in self.completed.items())
            ],
            "completions": {
                f"{kind}s": [
                    {f"{kind}Id": id, "completedAt": at, "startedOver": not is_open}
                    for at, id, is_open in sorted(
                        (timestamp(at), id, is_open)
                        for (each, id), times in self.finished.items()
                        if each == kind
                        for at, is_open in times.items()
                    )
                ]
                for kind in ("module", "course")
            },
        }

    def finish(self, marked: list[str]) -> dict[str, Any]:
        """Write the completions that follow from the marks of these lessons. Return what the answer says of them."""
        made: list[dict[str, Any]] = []
        part_of = {"module": lambda lesson: self.catalog.lessons[lesson].module_id, "course": self.catalog.course_of}
        for kind, part in part_of.items():
            new = []
            for id in {id for lesson in marked if (id := part(lesson))}:
                lessons = [name for name, row in self.catalog.lessons.items() if row.published and part(name) == id]
                times = self.finished.setdefault((kind, id), {})
                if all(lesson in self.completed for lesson in lessons):
                    at = max(self.completed[lesson] for lesson in lessons)
                    if at not in times and True not in times.values():
                        times[at] = True
                        new.append((timestamp(at), id))
            made += [{f"{kind}Id": id, "completedAt": at} for at, id in sorted(new)]
        return {"completions": made} if made else {}

    def close(self, kind: str, ids: set[str | None]) -> None:
        """Close the open completion of each of these modules or courses: they are started over."""
        for id in ids - {None}:
            times = self.finished.get((kind, str(id)), {})
            times.update(dict.fromkeys(times, False))

    def summary(self) -> dict[str, Any]:
        return self.counts(self.accessible())

    def module(self, module: str) -> dict[str, Any]:
        accessible = self.accessible(module)
        if not accessible:
            return {"code": "module_not_found"}
        lessons = [
            {"lessonId": lesson, "completed": lesson in self.completed, "completedAt": self.shown(lesson)}
            for lesson in accessible
            if not self.keeping_locked(lesson)
        ]
        return {"moduleId": module, **self.counts(accessible), "lessons": lessons}

    def lessons(self) -> dict[str, Any]:
        done = [(self.shown(lesson), lesson) for lesson in self.accessible() if lesson in self.completed]
        return {"lessons": [{"lessonId": lesson, "completedAt": at} for at, lesson in sorted(done)]}

    def modules(self) -> dict[str, Any]:
        modules = [{"moduleId": module, **self.counts(self.accessible(module))} for module in self.module_ids()]
        return {"modules": modules, "overall": self.summary()}

    def outline(self) -> dict[str, Any]:
        modules = [
            {"courseId": self.catalog.modules[module].course_id, **self.module_with_states(module)}
            for module in self.module_ids()
        ]
        return {"modules": modules, "overall": self.counts_with_locked(self.accessible())}

    def module_with_states(self, module: str) -> dict[str, Any]:
        """A module as the outline and the page of a course show it."""
        return {
            "moduleId": module,
            "title": self.catalog.modules[module].title,
            **self.counts_with_locked(self.accessible(module)),
            "lessons": [
                {
                    "lessonId": lesson,
                    "title": self.catalog.lessons[lesson].title,
                    "state": self.state(lesson),
                    "completedAt": self.shown(lesson),
                    "prerequisites": self.keeping_locked(lesson),
                }
                for lesson in self.accessible(module)
            ],
        }

    def courses(self) -> dict[str, Any]:
        courses = [self.counted_course(course) for course in self.course_ids()]
        return {"courses": courses, "overall": self.counts_with_locked(self.accessible())}

    def counted_course(self, course: str) -> dict[str, Any]:
        counts = self.counts_with_locked(self.accessible(course=course))
        return {"courseId": course, "title": self.catalog.courses[course].title, **counts}

    def course(self, course: str) -> dict[str, Any]:
        accessible = self.accessible(course=course)
        if not accessible:
            return {"code": "course_not_found"}
        modules = [one for one in self.module_ids() if self.catalog.modules[one].course_id == course]
        return self.counted_course(course) | {
            "next": self.next_of(accessible),
            "modules": [self.module_with_states(module) for module in modules],
        }

    def state(self, lesson: str) -> str:
        if lesson in self.completed:
            return "completed"
        return "locked" if self.keeping_locked(lesson) else "available"

    def next(self) -> dict[str, Any]:
        return self.next_of(self.accessible())

    def next_of(self, accessible: list[str]) -> dict[str, Any]:
        """The lesson to go on with, of these, which are in catalog order."""
        place = self.catalog.place
        done = [lesson for lesson in accessible if lesson in self.completed]
        latest = max(done, key=lambda lesson: (self.shown(lesson), place(lesson)), default=None)
        available = [lesson for lesson in accessible if self.state(lesson) == "available"]
        after = [lesson for lesson in available if latest and place(lesson) > place(latest)]
        lesson = (after + available + [None])[0]
        return {"lessonId": lesson, "moduleId": self.catalog.lessons[lesson].module_id if lesson else None}

    def mark(self, lesson: str, at: datetime) -> dict[str, Any]:
        """Mark a lesson as completed at `at`, unless it is completed already. Return the answer."""
        answer = self.store(lesson, at)
        return answer if "code" in answer else answer | self.finish([lesson])

    def store(self, lesson: str, at: datetime) -> dict[str, Any]:
        refused = self.refused(lesson)
        if not refused and self.keeping_locked(lesson):
            refused = {"code": "lesson_locked", "prerequisites": self.keeping_locked(lesson)}
        if refused:
            return refused
        self.completed.setdefault(lesson, at)
        return self.written(lesson)

    def mark_lessons(self, lessons: dict[str, datetime]) -> dict[str, Any]:
        """Mark lessons one by one, again and again until no more of them can be marked. Return the answer."""
        if not self.is_enrolled():
            return {"code": "not_enrolled"}
        refused: dict[str, dict[str, Any]] = {}
        left = list(lessons)
        while True:
            answers = {lesson: self.store(lesson, lessons[lesson]) for lesson in left}
            refused = {lesson: answer for lesson, answer in answers.items() if "code" in answer}
            if len(refused) == len(left):
                break
            left = list(refused)
        marked = [lesson for lesson in lessons if lesson not in refused]
        modules = {self.catalog.lessons[lesson].module_id for lesson in marked}
        courses = {course for lesson in marked if (course := self.catalog.course_of(lesson))}
        return {
            "results": [
                {"lessonId": lesson, "completed": lesson not in refused}
                | refused.get(lesson, {"completedAt": self.shown(lesson)})
                for lesson in lessons
            ],
            "modules": [
                {"moduleId": module, **self.counts(self.accessible(module))}
                for module in self.module_ids()
                if module in modules
            ],
            "courses": [
                {"courseId": course, **self.counts(self.accessible(course=course))}
                for course in self.course_ids()
                if course in courses
            ],
            "overall": self.summary(),
            **self.finish(marked),
        }

    def unmark(self, lesson: str) -> dict[str, Any]:
        """Take the mark of a lesson back. Return the answer."""
        refused = self.refused(lesson)
        if refused:
            return refused
        self.completed.pop(lesson, None)
        return self.written(lesson)

    def start_over(self, path: str) -> dict[str, Any]:
        """Unmark what `modules/{moduleId}`, `courses/{courseId}` or `lessons?all=true` names. Return the answer."""
        if not self.is_enrolled():
            return {"code": "not_enrolled"}
        kind, _, id = path.partition("/")
        module = id if kind == "modules" else None
        course = id if kind == "courses" else None
        lessons = self.accessible(module, course)
        if id and not lessons:
            return {"code": f"{kind.removesuffix('s')}_not_found"}
        if module:
            course = self.catalog.modules[module].course_id
        removed = [lesson for lesson in lessons if self.completed.pop(lesson, None)]
        self.close("module", {self.catalog.lessons[lesson].module_id for lesson in removed})
        if kind != "modules":
            self.close("course", {self.catalog.course_of(lesson) for lesson in removed})
        return {
            "removedCount": len(removed),
            **({"module": {"moduleId": module, **self.counts(lessons)}} if module else {}),
            **({"course": {"courseId": course, **self.counts(self.accessible(course=course))}} if course else {}),
            "overall": self.summary(),
        }

    def refused(self, lesson: str) -> dict[str, Any] | None:
        if not self.is_enrolled():
            return {"code": "not_enrolled"}
        if lesson not in self.catalog.lessons:
            return {"code": "lesson_not_found"}
        return None if self.is_accessible(lesson) else {"code": "lesson_not_available"}

    def written(self, lesson: str) -> dict[str, Any]:
        module, course = self.catalog.lessons[lesson].module_id, self.catalog.course_of(lesson)
        of_course = {"course": {"courseId": course, **self.counts(self.accessible(course=course))}} if course else {}
        return {
            "lessonId": lesson,
            "completed": lesson in self.completed,
            "completedAt": self.shown(lesson),
            "module": {"moduleId": module, **self.counts(self.accessible(module))},
            **of_course,
            "overall": self.summary(),
        }


def known_of_export(document: dict[str, Any]) -> dict[str, Any]:
    """Return what the model knows of an export: the progress, without the times at which rows were written.

    Return any other document unchanged.
    """
    if "exportedAt" not in document:
        return document
    written = ("createdAt", "updatedAt")
    return {
        "lessons": [{name: row[name] for name in row if name not in written} for row in document["lessons"]],
        "completions": {
            kind: [
                {name: row[name] for name in row if name != "startedOverAt"}
                | {"startedOver": row["startedOverAt"] is not None}
                for row in rows
            ]
            for kind, rows in document["completions"].items()
        },
    }
