"""Adds events to the table from which `make deliver` sends them."""

import json
from typing import Any, Literal, TypedDict

import psycopg

from app.database import statements


class Event(TypedDict):
    """One event of a write: its type, and the member `data` of its body (contract §9)."""

    type: Literal["lesson.completed", "lesson.uncompleted", "module.completed", "course.completed"]
    data: dict[str, Any]


def add(connection: psycopg.Connection[Any], user_id: str, events: list[Event]) -> None:
    """Add the events of a write, in this order. An empty list costs no trip to the database.

    Call this in the transaction of the write, after lock.sql has locked the learner's row, and only if WEBHOOK_URL is
    set.
    """
    if events:
        statements.run(connection, "events/add", user_id=user_id, events=json.dumps(events))
