"""Sends the events of the outbox to the site's webhook: the process of `make deliver` (contract §9).

Only the main loop uses the database. The loop claims as many events as it can send now, starts a thread for each, and
records the outcome of each attempt. No transaction is open while a thread sends. Several deliverers may run, on several
machines.
"""

import json
import logging
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Literal

import psycopg
from psycopg import IsolationLevel
from standardwebhooks import Webhook

from app import logs
from app.database import statements
from app.database.connection import Connection, connect_options
from app.events import metrics
from app.outgoing import RequestError, redirect_host, send
from app.settings import DeliverySettings

_log = logging.getLogger("progress.events")

# How many events are sent at once. An attempt that has run for SLOW_SECONDS does not count any more. Otherwise a
# receiver that hangs for some learners would hold up the others. All attempts together are never more than MAX_SENDERS.
SENDERS = 16
MAX_SENDERS = 64
SLOW_SECONDS = 2.0
# How long a receiver may take, from the name lookup to the end of the headers. It must be well below LEASE_SECONDS.
SEND_SECONDS = 15.0
LEASE_SECONDS = 60.0  # in claim.sql
# A poll is one statement on a small index. LISTEN would be quicker, but NOTIFY makes all commits that use it wait for
# one lock, and would slow every mark.
POLL_SECONDS = 0.5
# When an event is tried again: seconds after the first attempt that failed, after the second, and so on.
RETRY_SECONDS = (5, 60, 300, 1800, 7200, 21600, 43200, 86400)
RETRY_SPREAD = 0.1  # so that the events of an outage do not all come back in the same second
MAX_ERROR_CHARACTERS = 200
EXPIRE_PAUSE_SECONDS = 60.0
COUNT_PAUSE_SECONDS = 15.0
RECONNECT_PAUSE_SECONDS = 1.0
# After SIGTERM: how long to try to record the last attempts if the database is away.
STOP_SECONDS = 5.0

Outcome = Literal["delivered", "failed", "given_up"]


@dataclass
class Attempt:
    """One event that this process has claimed. `outcome` is None until the attempt has ended."""

    user_id: str
    id: int
    claimed_at: str
    number: int  # of this attempt, from 1
    webhook_id: str
    type: str
    body: str
    started: float  # seconds of the monotonic clock
    outcome: Outcome | None = None
    status: int | None = None
    error: str | None = None
    retry_seconds: float | None = None


class Deliverer:
    """One process of `make deliver`."""

    def __init__(self, settings: DeliverySettings) -> None:
        self._settings = settings
        self._signers = [Webhook(secret) for secret in settings.webhook_secrets]
        self._connection: Connection | None = None
        self._attempts: dict[int, Attempt] = {}  # by the event's number: the attempts that are not recorded yet
        # It wakes the main loop. Of the queues and locks of Python, a signal handler may use this one alone.
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._stop_before: float | None = None  # seconds of the monotonic clock; None: run on
        self._database_is_away = False
        self._next_expiry = self._next_count = 0.0

    def stop(self) -> None:
        """Claim nothing more. Let the running attempts end, and return from `run`. A signal handler may call this."""
        if self._stop_before is None:
            self._stop_before = monotonic() + SEND_SECONDS + STOP_SECONDS
        self._woken.put(None)

    def run(self) -> None:
        """Deliver until `stop` is called."""
        _log.info("delivering events")
        while True:
            pause = POLL_SECONDS
            try:
                self._use_database()
                if self._database_is_away:
                    self._database_is_away = False
                    _log.warning("the database answers again")
            except psycopg.Error as error:
                self._lose_connection(error)
                pause = RECONNECT_PAUSE_SECONDS
            if self._stop_before is not None:
                if not self._attempts:
                    break
                if monotonic() > self._stop_before:
                    # Somebody else sends these again after their leases.
                    _log.warning("stopped before the outcome of %d attempts was stored", len(self._attempts))
                    break
            self._wait(pause)
        if self._connection:
            self._connection.close()
        _log.info("stopped")

    def _wait(self, seconds: float) -> None:
        """Wait until an attempt ends or the seconds are over."""
        try:
            self._woken.get(timeout=seconds)
            while True:
                self._woken.get_nowait()
        except Empty:
            pass

    def _use_database(self) -> None:
        connection = self._connected()
        self._record()
        if self._stop_before is None:
            self._claim()
            now = monotonic()
            # The next time is set first. Otherwise a statement that fails, for instance because the table is so large
            # that its time runs out, would be tried again in each round, and every round would lose the connection.
            if now >= self._next_expiry:
                self._next_expiry = now + EXPIRE_PAUSE_SECONDS
                with connection.transaction():
                    removed = self._run("events/expire")
                if len(removed) == 1000:
                    self._next_expiry = now  # a full batch means that there are more
            if self._settings.webhook_metrics_port and now >= self._next_count:
                self._next_count = now + COUNT_PAUSE_SECONDS
                metrics.count(statements.one(self._run("events/counts")[0]))

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = Connection.connect(self._settings.database_url, **connect_options(self._settings))
            # promote.sql must see what other transactions wrote before events/lock.sql got the lock. The default of the
            # database may be another level, which holds for all that is not in connection.transaction().
            self._connection.isolation_level = IsolationLevel.READ_COMMITTED
        # Without a deadline, a server that hangs would hold the loop for ever.
        self._connection.deadline = monotonic() + self._settings.database_timeout
        return self._connection

    def _lose_connection(self, error: psycopg.Error) -> None:
        if not self._database_is_away:
            _log.error("the database does not answer, or refuses: %s", logs.name(error))
        self._database_is_away = True
        if self._connection:
            self._connection.close()
            self._connection = None

    def _run(self, name: str, **parameters: str | None) -> list[dict[str, Any]]:
        assert self._connection  # noqa: S101 - _connected has made it
        cursor = statements.run(self._connection, name, **parameters)
        return cursor.fetchall() if cursor.description else []

    def _claim(self) -> None:
        asked = monotonic()
        quick = sum(asked - attempt.started < SLOW_SECONDS for attempt in self._attempts.values())
        free = min(SENDERS - quick, MAX_SENDERS - len(self._attempts))
        if free <= 0:
            return
        with self._connected().transaction():
            rows = self._run("events/claim", limit=str(free))
        # The claim is committed now. Nothing is sent before that.
        if monotonic() - asked > LEASE_SECONDS - SEND_SECONDS:
            return  # the answer came so late that the leases could run out while the events are sent
        for row in rows:
            known = self._attempts.get(row["id"])
            if known:
                # The attempt has ended, but was not recorded within its lease: the learner was locked, or the database
                # was away. Do not send the event again.
                known.claimed_at = row["claimed_at"]
                continue
            attempt = Attempt(
                user_id=str(row["user_id"]),
                id=row["id"],
                claimed_at=row["claimed_at"],
                number=row["attempts"] + 1,
                webhook_id=row["webhook_id"],
                type=row["type"],
                body=row["body"],
                started=asked,
            )
            self._attempts[attempt.id] = attempt
            threading.Thread(target=self._attempt, args=(attempt,), name="progress-send", daemon=True).start()

    def _attempt(self, attempt: Attempt) -> None:
        """Send an event, note what became of it, and wake the main loop."""
        try:
            attempt.status, attempt.error = self._send(attempt)
        except RequestError as error:
            attempt.error = str(error)
        except Exception as error:  # noqa: BLE001 - the event must be tried again, whatever went wrong
            attempt.error = logs.name(error)
        if attempt.error:
            # The receiver may have sent a part of this text. PostgreSQL takes no NUL character.
            attempt.error = "".join(filter(str.isprintable, attempt.error))[:MAX_ERROR_CHARACTERS]
        outcome: Outcome = "failed"
        if attempt.status is not None and 200 <= attempt.status < 300:
            outcome = "delivered"
        elif attempt.status == 410 or attempt.number > len(RETRY_SECONDS):
            outcome = "given_up"
        else:
            spread = random.uniform(1 - RETRY_SPREAD, 1 + RETRY_SPREAD)  # noqa: S311 - not for a secret
            attempt.retry_seconds = RETRY_SECONDS[attempt.number - 1] * spread
        fields = {
            "event": attempt.webhook_id,
            "type": attempt.type,
            "user_id": attempt.user_id,
            "attempt": attempt.number,
            "outcome": outcome,
            "status": attempt.status,
            "error": attempt.error,
            "duration_ms": round((monotonic() - attempt.started) * 1000, 2),
        }
        level = logging.INFO if outcome == "delivered" else logging.WARNING
        _log.log(
            level, "attempt", extra={"fields": {name: value for name, value in fields.items() if value is not None}}
        )
        metrics.ATTEMPTS.labels(outcome).inc()
        attempt.outcome = outcome  # the main loop looks at this one, so it is the last
        self._woken.put(None)

    def _send(self, attempt: Attempt) -> tuple[int, str | None]:
        # Standard Webhooks, "Webhook headers". The time is that of the attempt, because receivers refuse an old one.
        now = datetime.now(UTC)
        signatures = [signer.sign(attempt.webhook_id, now, attempt.body) for signer in self._signers]
        headers = {
            "Content-Type": "application/json",
            "webhook-id": attempt.webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

        def status(response: Any) -> tuple[int, str | None]:
            # The body is not read: it may be large or endless, and the status says everything.
            host = redirect_host(response)
            return response.status_code, f"redirects to {host}, and redirects are not followed" if host else None

        return send("POST", self._settings.webhook_url, headers, SEND_SECONDS, status, attempt.body.encode())

    def _record(self) -> None:
        """Record the outcomes of attempts that have ended. If somebody else has locked the learner, do so later."""
        ended = [attempt for attempt in self._attempts.values() if attempt.outcome]
        if not ended:
            return
        connection = self._connected()
        user_ids = {attempt.user_id for attempt in ended}
        with connection.transaction():
            # One trip for all learners.
            with connection.pipeline():
                locks = {user_id: statements.run(connection, "events/lock", user_id=user_id) for user_id in user_ids}
            waiting = {user_id for user_id, lock in locks.items() for row in lock.fetchall() if not row["locked"]}
            now = [attempt for attempt in ended if attempt.user_id not in waiting]
            outcomes = json.dumps([_outcome(attempt) for attempt in now])
            finished = {str(row["user_id"]) for row in self._run("events/record", attempts=outcomes)}
            if finished:
                self._run("events/promote", user_ids=statements.array(sorted(finished)))
        for attempt in now:
            del self._attempts[attempt.id]


def _outcome(attempt: Attempt) -> dict[str, Any]:
    return {
        "userId": attempt.user_id,
        "id": attempt.id,
        "claimedAt": attempt.claimed_at,
        "delivered": attempt.outcome == "delivered",
        "status": attempt.status,
        "error": attempt.error,
        "retrySeconds": attempt.retry_seconds,
    }
