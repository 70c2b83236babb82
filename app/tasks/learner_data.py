"""The tasks for a learner who asks for their data, or asks for it to be erased: make export-user and erase-user."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.errors import ForeignKeyViolation, RestrictViolation
from psycopg.types.string import TextLoader

from app.database import statements
from app.database.statements import one
from app.tasks import TaskError


def export(connection: psycopg.Connection[Any], user_id: str) -> str:
    """Return what `GET /export` answers to a learner, as JSON. Raise TaskError if nothing is stored of the learner."""
    # As app/database/connection.py does: PostgreSQL has made the JSON, and it stays as it is.
    connection.adapters.register_loader("json", TextLoader)
    document: str = one(statements.run(connection, "export", user_id=user_id).fetchone())["answer"]
    is_user = one(statements.run(connection, "learners/missing", user_id=user_id).fetchone())["is_user"]
    # Of a person who is not in users, there can only be what Stripe said.
    if not is_user and not any(json.loads(document)["stripe"].values()):
        raise _nobody(user_id)
    return document


def erase(connection: psycopg.Connection[Any], user_id: str, site_id: str, confirmed: bool) -> Iterator[str]:
    """Delete every row of a learner, and the row in users if the table is ours. Yield a line for each table.

    `site_id` is the learner's id at the site, which is another one with AUTH_USER_ID_NAMESPACE.

    Unless this is confirmed, the deletes are rolled back: so the lines say exactly what a confirmed run would delete.
    Raises TaskError then, or if nothing is stored of the learner, or if a table of the site's refers to the learner.
    """
    connection.isolation_level = IsolationLevel.READ_COMMITTED  # each statement sees what was committed before it
    try:
        with connection.transaction(force_rollback=not confirmed):
            locks = statements.run(connection, "admin/erase_locks", user_id=user_id).fetchall()
            for lock in locks:
                statements.run(connection, "stripe/lock", stripe_id=lock["stripe_id"])
            is_user = statements.run(connection, "lock", user_id=user_id).fetchone() is not None
            values = {"user_id": user_id, "quoted_site_id": json.dumps(site_id)}  # as app/stripe/mirror.py writes JSON
            removed = {
                row["table_name"]: row["row_count"]
                for name in ("admin/erase", "admin/erase_events", "admin/erase_stripe")
                for row in statements.run(connection, name, **values)
            }
            customer_ids = [lock["stripe_id"] for lock in locks if lock["is_customer"]]
            shared = {id for id in customer_ids if _is_used(connection, id)}
            own_users = one(statements.run(connection, "learners/rights").fetchone())["own_users"]
            if own_users:
                removed["users"] = len(statements.run(connection, "admin/erase_user", user_id=user_id).fetchall())
    except (ForeignKeyViolation, RestrictViolation) as error:
        raise TaskError(
            f"nothing was removed: the table {error.diag.schema_name}.{error.diag.table_name} refers to this learner in"
            " users; remove its rows of the learner first"
        ) from None
    if not is_user and not any(removed.values()):
        raise _nobody(user_id)
    yield from (f"{table}: {count}" for table, count in removed.items())
    if not own_users:
        yield "users: 0, because the table is the site's own; the site removes the row there"
    for id in customer_ids:
        if id in shared:
            yield (
                f"the customer {id} at Stripe is another learner's too: do not delete it; cancel there what is this"
                " learner's alone, and remove the learner's id from the metadata: its next event would be stored again"
            )
        else:
            yield f"Stripe's next event about {id} would be stored again: see to this customer at Stripe first"
    if not confirmed:
        raise TaskError("nothing was removed; to remove these rows, add CONFIRM=yes")
    yield "erased"


def _is_used(connection: psycopg.Connection[Any], customer_id: str) -> bool:
    row = statements.run(connection, "admin/stripe_customer_is_used", customer_id=customer_id).fetchone()
    return bool(one(row)["is_used"])


def _nobody(user_id: str) -> TaskError:
    return TaskError(f"there is no learner {user_id}: nothing is stored under this id")
