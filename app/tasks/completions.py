"""The task make complete: it writes the completions that no mark has written."""

from typing import Any

import psycopg

from app.database import statements
from app.database.statements import array

BATCH_LEARNERS = 200
FIRST_UUID = "00000000-0000-0000-0000-000000000000"


def write_missing(connection: psycopg.Connection[Any]) -> str:
    """Write the missing completions of all learners. Return the line to print.

    Each batch of learners is a transaction, so a write of a learner waits for one batch at most. What was written stays
    if the task is stopped, and the next run goes on.
    """
    modules = courses = 0
    after = FIRST_UUID
    while True:
        with connection.transaction():
            batch = {"after": after, "limit": str(BATCH_LEARNERS)}
            user_ids = [str(row["id"]) for row in statements.run(connection, "admin/complete_learners", **batch)]
            if not user_ids:
                return f"completions written: {modules} of modules, {courses} of courses"
            statements.lock(connection, user_ids)
            for missing in statements.run(connection, "admin/complete", user_ids=array(user_ids)).fetchall():
                found = missing | {"user_id": str(missing["user_id"])}
                modules += statements.run(connection, "complete_modules", **found).rowcount
                courses += statements.run(connection, "complete_courses", **found).rowcount
            after = user_ids[-1]
