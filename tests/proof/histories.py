"""Concurrent histories of calls, and a checker: is there a serial order that explains every answer?

Client processes import this module. It imports little besides the standard library, so they start at once.
"""

import dataclasses
import http.client
import json
import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.proof.model import Learner, known_of_export


class Call(NamedTuple):
    user_id: str
    method: str
    path: str  # below /api/progress/
    completed_at: str | None = None
    lessons: tuple[str, ...] = ()  # of many marks, all with the same completed_at


class Operation(NamedTuple):
    """A call, its start and its end by a clock that all processes share, and its answer in the form of the model's."""

    call: Call
    started: float
    ended: float
    answer: dict[str, Any]


def client(url: str, headers: dict[str, dict[str, str]], calls: list[Call], start: float) -> list[Operation]:
    """From `start` on, make calls one after the other. A connection is used for a few calls.

    A GET sends the ETag of the last answer that this client got to the same call of the same learner. A 304 counts as
    that answer.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    had: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    operations = []
    time.sleep(max(0.0, start - time.monotonic()))
    for call in calls:
        sent = dict(headers[call.user_id])
        body = None
        if call.completed_at or call.lessons:
            document: dict[str, Any] = {"completedAt": call.completed_at}
            if call.lessons:
                document = {"lessons": [{"lessonId": lesson} | document for lesson in call.lessons]}
            body = json.dumps(document)
            sent["Content-Type"] = "application/json"
        known = had.get((call.user_id, call.path)) if call.method == "GET" else None
        if known:
            sent["If-None-Match"] = known[0]
        started = time.monotonic()
        connection.request(call.method, f"/api/progress/{call.path}", body, sent)
        response = connection.getresponse()
        text = response.read()
        ended = time.monotonic()
        answer = known[1] if known and response.status == 304 else json.loads(text)
        if response.status == 200 and call.method == "GET":
            had[call.user_id, call.path] = response.headers["ETag"], answer
        if response.status not in (200, 304):
            answer = {name: answer[name] for name in ("code", "prerequisites") if name in answer}
        operations.append(Operation(call, started, ended, answer))
        if random.random() < 0.2:
            connection.close()  # the next connection may go to another worker
    connection.close()
    return operations


def after(learner: Learner, operation: Operation) -> Learner | None:
    """Return the state of the learner after an operation. Return None if the model would have answered otherwise."""
    call, answer = operation.call, operation.answer
    if call.method == "GET":
        return learner if learner.read(call.path) == known_of_export(answer) else None
    shown = {result["lessonId"]: result.get("completedAt") for result in answer.get("results", [])}
    changed, expected = written(learner, call, lambda lesson: shown.get(lesson) or answer.get("completedAt"))
    return changed if expected == answer else None


def written(learner: Learner, call: Call, time_of: Callable[[str], str | None]) -> tuple[Learner, dict[str, Any]]:
    """Return the state of the learner after a write, and the model's answer to the write.

    If the caller gave no time, the service chose one: `time_of` returns the time of a lesson, if it is known. The model
    takes it over, and later answers must agree with it.
    """
    finished = {of: dict(times) for of, times in learner.finished.items()}
    changed = dataclasses.replace(learner, completed=dict(learner.completed), finished=finished)

    def at(lesson: str) -> datetime:
        return datetime.fromisoformat(call.completed_at or time_of(lesson) or "1970-01-01T00:00:00Z")

    if call.method == "DELETE" and not call.path.startswith("lessons/"):
        return changed, changed.start_over(call.path)
    if call.lessons:
        return changed, changed.mark_lessons({lesson: at(lesson) for lesson in call.lessons})
    lesson = call.path.removeprefix("lessons/")
    return changed, changed.unmark(lesson) if call.method == "DELETE" else changed.mark(lesson, at(lesson))


def serial_order(learner: Learner, operations: list[Operation]) -> list[Operation] | None:
    """Find an order of one learner's operations that explains all answers. Return None if there is none.

    In the order, each operation happens at one moment between its start and its end. The search is that of Wing and
    Gong (Testing and Verifying Concurrent Objects, 1993). As Lowe proposes (Testing for Linearizability, 2017), it
    remembers the states that it has tried: the operations that are left, and what the learner has completed.
    """
    by_start = sorted(operations, key=lambda operation: operation.started)
    tried = set()

    def search(left: tuple[int, ...], learner: Learner) -> list[Operation] | None:
        if not left:
            return []
        finished = {(*of, *row) for of, times in learner.finished.items() for row in times.items()}
        state = left, frozenset(learner.completed.items()), frozenset(finished)
        if state in tried:
            return None
        tried.add(state)
        first_end = min(by_start[number].ended for number in left)
        for number in left:
            if by_start[number].started > first_end:  # another operation ended before this one began
                break
            changed = after(learner, by_start[number])
            if changed is not None:
                rest = search(tuple(other for other in left if other != number), changed)
                if rest is not None:
                    return [by_start[number], *rest]
        return None

    return search(tuple(range(len(by_start))), learner)
