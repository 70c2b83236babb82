"""The tasks about events: deliver them, list those that wait, and send some again."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import psycopg

from app import logs
from app.database import readiness, statements
from app.events import metrics
from app.events.deliverer import Deliverer
from app.settings import DeliverySettings, SettingsError
from app.tasks import TaskError

LISTED = 1000  # how many admin/events.sql lists at most


def deliver(settings: DeliverySettings) -> None:
    """Deliver events until SIGTERM or SIGINT.

    Raises NotReadyError if the database is not fit, and SettingsError if the port of the metrics is taken.
    """
    readiness.check_delivery(settings)
    if settings.webhook_metrics_port:
        try:
            metrics.serve(settings.host, settings.webhook_metrics_port)
        except OSError as error:
            raise SettingsError(f"WEBHOOK_METRICS_PORT: cannot listen: {error.strerror}") from None
    logs.configure(settings.log_level, logs.JsonFormatter())
    deliverer = Deliverer(settings)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: deliverer.stop())
    deliverer.run()


def listing(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """Yield a line for each event that was given up or waits, and a line that says how many there are of both."""
    counts = statements.one(statements.run(connection, "events/counts").fetchone())
    rows = statements.run(connection, "admin/events").fetchall()
    yield f"{counts['waiting']} waiting, {counts['given_up']} given up"
    for row in rows:
        yield "  ".join([row["webhook_id"], f"{row['type']:18}", str(row["user_id"]), *_state(row)])
    if len(rows) == LISTED:
        yield f"the first {LISTED} are listed"


def _state(row: dict[str, Any]) -> Iterator[str]:
    yield f"written {row['created_at']}"
    if row["given_up_at"]:
        yield f"given up {row['given_up_at']}"
    elif row["next_attempt_at"]:
        yield f"next attempt {row['next_attempt_at']}"
    else:
        yield "after an earlier event of the learner"
    if row["attempts"]:
        met = ": ".join(str(each) for each in (row["last_status"], row["last_error"]) if each is not None)
        yield f"{row['attempts']} failed, the last with: {met}"


def redeliver(connection: psycopg.Connection[Any], webhook_id: str) -> str:
    """Let an event be sent again, whatever became of it, or with an empty id all that were given up.

    Raises TaskError if there is no such event, or if it is being sent at this moment.
    """
    if webhook_id:
        found = statements.run(connection, "admin/redeliver_one", webhook_id=webhook_id).fetchall()
        if not found:
            raise TaskError(f"there is no event {webhook_id}; events that were delivered over 30 days ago are removed")
        if not _wait_again(connection, found):
            raise TaskError(f"the event {webhook_id} is being sent at this moment; look again with: make events")
        return f"{webhook_id} is sent again, after the events of its learner that come before it"
    # No more than there are now: a receiver may make a deliverer give some up again at once.
    total = statements.one(statements.run(connection, "events/counts").fetchone())["given_up"]
    count = 0
    while count < total and (batch := statements.run(connection, "admin/redeliver_given_up").fetchall()):
        count += _wait_again(connection, batch)
    return f"{count} events that were given up are sent again" if count else "nothing to do: no event was given up"


def _wait_again(connection: psycopg.Connection[Any], chosen: list[dict[str, Any]]) -> int:
    """Let events wait again. Return how many."""
    user_ids = sorted({row["user_id"] for row in chosen})
    # promote.sql must see what other transactions wrote before the lock was there.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    with connection.transaction():
        statements.lock(connection, user_ids)
        changed = statements.run(connection, "admin/redeliver", chosen=json.dumps(chosen)).fetchall()
        statements.run(connection, "events/promote", user_ids=statements.array(user_ids))
    return len(changed)
