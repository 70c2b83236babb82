"""Adds events to the table from which `make deliver` sends them."""

import json
from typing import Any, Literal, TypedDict

from app.database.statements import StatementCall

Type = Literal["lesson.completed", "lesson.uncompleted", "module.completed", "course.completed"]


class Event(TypedDict):
    """One event of a write: its type, and the member `data` of its body (contract §9)."""

    type: Type
    data: dict[str, Any]


def adding(user_id: str, events: list[Event]) -> list[StatementCall]:
    """Return the statement that adds the events of a write, in this order, as a list. No events make an empty list.

    Run it in the transaction of the write, after lock.sql has locked the learner's row, and only if WEBHOOK_URL is set.
    """
    return [("events/add", {"user_id": user_id, "events": json.dumps(events)})] if events else []
