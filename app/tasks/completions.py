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
                return written(modules, courses)
            new_modules, new_courses = write(connection, statements.lock(connection, user_ids))
            modules, courses = modules + new_modules, courses + new_courses
            after = user_ids[-1]


def write(connection: psycopg.Connection[Any], user_ids: list[str]) -> tuple[int, int]:
    """Write the missing completions of learners who are locked. Return how many of modules and of courses."""
    modules = courses = 0
    for start in range(0, len(user_ids), BATCH_LEARNERS):
        batch = array(user_ids[start : start + BATCH_LEARNERS])
        missing = statements.run(connection, "admin/complete", user_ids=batch).fetchall()
        with connection.pipeline():
            found = [row | {"user_id": str(row["user_id"])} for row in missing]
            of_modules = [
                statements.run(connection, "complete_modules", **row) for row in found if row["module_ids"] != "{}"
            ]
            of_courses = [
                statements.run(connection, "complete_courses", **row) for row in found if row["course_ids"] != "{}"
            ]
        modules += sum(cursor.rowcount for cursor in of_modules)
        courses += sum(cursor.rowcount for cursor in of_courses)
    return modules, courses


def written(modules: int, courses: int) -> str:
    """Return the line that tells how many completions were written."""
    return f"completions written: {modules} of modules, {courses} of courses"
