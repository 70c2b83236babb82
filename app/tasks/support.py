"""The tasks of support, on a learner's behalf: make mark, unmark and start-over. They run the writes of the calls."""

import logging
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.types.string import TextLoader

from app.database import statements
from app.database.statements import Rows, StatementCall, Step
from app.problems import Problem
from app.tasks import TaskError
from app.writes import Learner

_log = logging.getLogger("progress.support")


def write(
    connection: psycopg.Connection[Any],
    user_id: str,
    function: Callable[..., str],
    sends_events: bool,
    **arguments: str | None,
) -> str:
    """Run a function of app/writes.py for a learner, without the write limit. Return its answer, as JSON.

    The log says that support wrote. Raises TaskError if the write is refused.
    """
    # What app/database/pool.py gives every connection of the service: the level that a write needs, and JSON as text.
    connection.isolation_level = IsolationLevel.READ_COMMITTED
    connection.adapters.register_loader("json", TextLoader)

    def run(*calls: StatementCall, then: Step | None = None) -> Rows:
        rows: Rows = {}
        following: tuple[list[StatementCall], Step | None] | None = (list(calls), then)
        # Where the transaction of a call is rolled back, a step returns None, the function raises Problem, and the
        # block below rolls back.
        while following is not None:
            further, step = following
            for name, parameters in further:
                cursor = statements.run(connection, name, **parameters)
                rows[name] = cursor.fetchone() if cursor.description else None
            following = step(rows) if step else None
        return rows

    # NEW_LEARNERS is for people with a session. A task must not add a learner whose id was mistyped.
    learner = Learner(user_id, run, add=lambda: False, sends_events=sends_events)
    try:
        # Around the whole function: what it refuses after a statement has written is rolled back.
        with connection.transaction():
            answer = function(learner, **arguments)
    except Problem as problem:
        detail = problem.error or problem.detail
        if "prerequisites" in problem.members:
            detail = f"{detail.removesuffix('.')}: {', '.join(problem.members['prerequisites'])}"
        raise TaskError(f"{problem.code}: {detail}") from None
    given = {name: value for name, value in arguments.items() if value is not None}
    _log.info("write", extra={"fields": {"task": function.__name__, "by": "support", "user_id": user_id, **given}})
    return answer
