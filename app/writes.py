"""The writes of a learner's progress (contract §3). The calls and the tasks of support run the same functions."""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from psycopg.rows import DictRow

from app.database.statements import Rows, StatementCall, Step, array, one
from app.events import content, outbox
from app.events.outbox import Event
from app.problems import RETRY_AFTER, Problem


class Learner(NamedTuple):
    """Whose progress a write changes, and how its statements run."""

    user_id: str
    # Runs statements in one READ COMMITTED transaction, as Pool.transaction does.
    transaction: Callable[..., Rows]
    # Adds a learner who is not enrolled, if NEW_LEARNERS says so. Returns whether to write once more.
    add: Callable[[], bool]
    sends_events: bool  # WEBHOOK_URL is set


def mark(learner: Learner, lesson_id: str, completed_at: str | None) -> str:
    """Mark a lesson as completed. Return the answer of the call, as JSON.

    Raises Problem, as every function here does, with the codes of contract §4 that depend on what is stored.
    """
    parameters = {"lesson_id": lesson_id, "to_mark": array([lesson_id]), "completed_at": completed_at}
    rows = _mark(learner, _lesson_events, "may_mark", "mark", "lesson", **parameters)
    return _with_completions(_lesson(rows["may_mark"], rows.get("lesson")), rows)


def unmark(learner: Learner, lesson_id: str) -> str:
    """Remove the mark of a lesson. Return the answer of the call, as JSON."""
    rows = _write(learner, _lesson_events, "unmark", "lesson", lesson_id=lesson_id)
    return _lesson(rows["unmark"], rows["lesson"])


def mark_lessons(learner: Learner, lesson_ids: Iterable[str], completed_ats: Iterable[str | None]) -> str:
    """Mark many lessons as completed, each at its time. Return the answer of the call, as JSON."""
    parameters = {"lesson_ids": array(lesson_ids), "completed_ats": array(completed_ats)}
    rows = _mark(learner, _many_events, "may_mark_lessons", "mark_lessons", "marked_lessons", **parameters)
    parts = {"results": one(rows["may_mark_lessons"])["results"], **one(rows["marked_lessons"])}
    # PostgreSQL has made the JSON of each part.
    answer = "{" + ", ".join(f'"{name}" : {part}' for name, part in parts.items()) + "}"
    return _with_completions(answer, rows)


def start_module_over(learner: Learner, module_id: str) -> str:
    """Remove the marks of all lessons of a module that the learner may take. Return the answer of the call, as JSON."""
    removed, counts = _start_over(learner, "start_over_module", "module_counts", module_id=module_id)
    if not removed["known"]:
        raise Problem("module_not_found")
    return json.dumps({"removedCount": removed["removed_count"], **counts})


def start_course_over(learner: Learner, course_id: str) -> str:
    """Remove the marks of all lessons of a course that the learner may take. Return the answer of the call, as JSON."""
    removed, counts = _start_over(learner, "start_over_course", "course_counts", course_id=course_id)
    if not removed["known"]:
        raise Problem("course_not_found")
    return json.dumps({"removedCount": removed["removed_count"], **counts})


def start_all_over(learner: Learner) -> str:
    """Remove the marks of all lessons that the learner may take. Return the answer of the call, as JSON."""
    removed, overall = _start_over(learner, "start_over_all", "summary")
    return json.dumps({"removedCount": removed["removed_count"], "overall": overall})


def _lesson(outcome: DictRow | None, lesson: DictRow | None) -> str:
    """Return the answer to a mark or an unmark. Raise Problem if it was refused."""
    outcome = one(outcome)
    if not outcome["known"]:
        raise Problem("lesson_not_found")
    if not outcome["available"]:
        raise Problem("lesson_not_available")
    if outcome.get("prerequisites"):
        raise Problem("lesson_locked", prerequisites=outcome["prerequisites"])
    if lesson is None:
        # Somebody has deleted the lesson since the unmark. That is possible because nobody had completed it.
        raise Problem("lesson_not_found")
    answer: str = lesson["answer"]
    return answer


def _completions(rows: Rows) -> str:
    """Return the completions that a write has made, as a JSON list."""
    completions: str = one(rows["finished"])["completions"] if "finished" in rows else "[]"
    return completions


def _with_completions(answer: str, rows: Rows) -> str:
    """Return an answer, a JSON object, with the completions that the write has made, if it has made any."""
    completions = _completions(rows)
    return answer if completions == "[]" else f'{answer.removesuffix("}")}, "completions" : {completions}}}'


def _start_over(learner: Learner, write: str, count: str, **ids: str | None) -> tuple[DictRow, dict[str, Any]]:
    # Each event has the counts of its lesson's module and course.
    more = ("modules", "courses") if learner.sends_events else ()
    rows = _write(learner, _start_over_events, write, count, *more, **ids)
    return one(rows[write]), json.loads(one(rows[count])["answer"])


def _lesson_events(user_id: str, write: DictRow, rows: Rows) -> list[Event]:
    """Return the events of a mark or an unmark."""
    completions = json.loads(_completions(rows))
    changed = not write["was_completed"] if "mark" in rows else write["removed_at"] is not None
    if not changed and not completions:
        return []
    answer = json.loads(one(rows["lesson"])["answer"])
    lesson = {
        "lessonId": answer["lessonId"],
        "moduleId": answer["module"]["moduleId"],
        "courseId": answer["course"]["courseId"] if "course" in answer else None,
        "completedAt": answer["completedAt"] or write["removed_at"],
        "isNew": changed,
    }
    counts = {"modules": [answer["module"]], "courses": [answer["course"]] if "course" in answer else []}
    return content.of_write(
        user_id,
        "lesson.completed" if "mark" in rows else "lesson.uncompleted",
        [lesson],
        completions,
        {**counts, "overall": answer["overall"]},
    )


def _many_events(user_id: str, write: DictRow, rows: Rows) -> list[Event]:
    """Return the events of many marks."""
    counts = {name: json.loads(text) for name, text in one(rows["marked_lessons"]).items()}
    completions = json.loads(_completions(rows))
    return content.of_write(user_id, "lesson.completed", json.loads(write["marked"]), completions, counts)


def _start_over_events(user_id: str, write: DictRow, rows: Rows) -> list[Event]:
    """Return the events of starting over."""
    counts = {**json.loads(one(rows["courses"])["answer"]), **json.loads(one(rows["modules"])["answer"])}
    return content.of_write(user_id, "lesson.uncompleted", json.loads(write["removed"]), [], counts)


def _mark(
    learner: Learner,
    events: Callable[[str, DictRow, Rows], list[Event]],
    may_mark: str,
    mark: str,
    count: str,
    **parameters: str | None,
) -> Rows:
    """Ask which marks the learner may make, store these, complete and count, in one transaction of two or three trips.

    Returns the row of each statement, by its name. A mark that is refused has the row of `may_mark` alone. For many
    marks, the statements of storing and of counting run even if all are refused. See _run for `events`.
    """
    given = {"user_id": learner.user_id, **parameters}

    def store(rows: Rows) -> tuple[list[StatementCall], Step | None] | None:
        outcome = one(rows[may_mark])
        is_refused = not outcome.get("available", True) or outcome.get("prerequisites")
        # Without the lock, nothing is written: _run then begins anew.
        if not outcome["enrolled"] or is_refused or rows["lock"] is None:
            return None
        # The lessons of a list that may be marked, with their times. They are for the statements of many marks.
        to_mark = {name: outcome[name] for name in ("to_mark", "to_mark_ats") if name in outcome}
        finishes = outcome["finishes"]
        calls = [mark, "finished", count] if finishes else [mark, count]
        return [(name, given | to_mark) for name in calls], finish if finishes or learner.sends_events else None

    def finish(rows: Rows) -> tuple[list[StatementCall], Step | None]:
        completing: list[StatementCall] = []
        if "finished" in rows:
            found = {"user_id": learner.user_id, **one(rows["finished"])}
            completing = [(f"complete_{kind}s", found) for kind in ("module", "course") if found[f"{kind}_ids"] != "{}"]
        return completing + _adding_events(learner, events, may_mark, rows), None

    return _run(learner, may_mark, lambda: learner.transaction(("lock", given), (may_mark, given), then=store))


def _write(
    learner: Learner,
    events: Callable[[str, DictRow, Rows], list[Event]],
    write: str,
    *names: str,
    **parameters: str | None,
) -> Rows:
    """Run lock.sql, a statement that writes, and others after it, in one transaction. Return the row of each, by name.

    See _run for `events`.
    """
    # One statement after the other, because a statement that waited for the lock still sees the data from before the
    # wait, and because a statement does not see its own writes.
    calls = [(name, {"user_id": learner.user_id, **parameters}) for name in ("lock", write, *names)]

    def add_events(rows: Rows) -> tuple[list[StatementCall], Step | None] | None:
        if one(rows[write])["enrolled"] and rows["lock"] is None:
            return None  # without the lock, the events could get another order than the writes
        return _adding_events(learner, events, write, rows), None

    then = add_events if learner.sends_events else None
    return _run(learner, write, lambda: learner.transaction(*calls, then=then))


def _adding_events(
    learner: Learner, events: Callable[[str, DictRow, Rows], list[Event]], write: str, rows: Rows
) -> list[StatementCall]:
    """Return the statement that adds the events of a write, as a list. It is empty if there are none.

    `events` makes the events from the user id, the row of the statement `write`, and all rows.
    """
    row = one(rows[write])
    if not learner.sends_events or not row["enrolled"]:
        return []
    return outbox.adding(learner.user_id, events(learner.user_id, row, rows))


def _run(learner: Learner, write: str, run: Callable[[], Rows]) -> Rows:
    """Run a write. Return its rows, of which that of the statement `write` says whether the learner is enrolled.

    Raises Problem not_enrolled or unavailable.
    """
    rows = run()
    enrolled = one(rows[write])["enrolled"]
    # Another call, or the site, may have added the learner after lock.sql ran. Then nothing was locked, and the counts
    # may be wrong. A second unmark, or a second start over, changes nothing.
    if (enrolled and rows["lock"] is None) or (not enrolled and learner.add()):
        rows = run()
    if not one(rows[write])["enrolled"]:
        raise Problem("not_enrolled")
    if rows["lock"] is None:
        # Row level security hides the learner's row. Another write of this learner may have run at the same time.
        retry_after = {"Retry-After": RETRY_AFTER}
        raise Problem("unavailable", headers=retry_after, error="lock.sql found no row of the learner")
    return rows
