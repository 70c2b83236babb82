"""How the service connects to PostgreSQL, and how long it waits on a connection."""

import select
import traceback
from time import monotonic
from typing import Any, Self, TypeVar

import psycopg
from psycopg import OperationalError, RawCursor
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row

from app.settings import DatabaseSettings

T = TypeVar("T")


class DeadlineError(OperationalError):
    """The deadline of a request passed while the request waited for the server."""


class Connection(psycopg.Connection[DictRow]):
    """A connection that waits for the server until the deadline of the request that uses it, and no longer."""

    deadline = float("inf")  # in seconds of the monotonic clock

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """Connect as psycopg does. After a failure, close the socket at once.

        psycopg leaves the socket to the garbage collector. At a server that hangs, open sockets would pile up.
        """
        try:
            return super().connect(*args, **kwargs)
        except OperationalError as error:
            for each in (error, error.__context__):
                traceback.clear_frames(each.__traceback__ if each else None)
            raise

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server as psycopg does. At the deadline, close the connection and raise DeadlineError.

        The timeouts of the server do not help if the server hangs, or if the network loses its answer.
        """
        try:
            return super().wait(gen, interval, max(0.0, self.deadline - monotonic()))
        except OperationalError:
            if monotonic() < self.deadline:
                raise
            self.close()
            raise DeadlineError("DATABASE_TIMEOUT is over") from None

    def spoke_unasked(self) -> bool:
        """Return whether the server sent something, or closed the connection, while nothing was asked of it."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))


def read_write(database_url: str) -> dict[str, Any]:
    """Return the parameters of a libpq URL. They refuse a standby, unless the URL itself says which servers to take."""
    return {"target_session_attrs": "read-write"} | conninfo_to_dict(database_url)


def connect_options(settings: DatabaseSettings) -> dict[str, Any]:
    """Return the keyword arguments for psycopg.connect that every connection of the service is made with.

    Autocommit: a read is one statement and one trip.

    The server's timeouts are set at connect. A later `set` would stay on a connection of PgBouncer's, and hold for
    other clients too. A PgBouncer without prepared statements (PREPARE_THRESHOLD=off) takes no options at connect:
    there the role has the timeouts (deploy/grants.sql). These timeouts are a little shorter than the deadline of a
    request, since a missed deadline costs the connection.

    Behind such a PgBouncer a standby is not refused at connect either. PgBouncer tells every client what its first
    server said of itself, even after a promotion. There only readiness.sql and the errors of a standby tell.
    """
    own = conninfo_to_dict(settings.database_url)
    timeout = max(1, round(settings.database_timeout * 1000))  # milliseconds; 0 would mean no timeout
    options: dict[str, Any] = {
        "autocommit": True,
        "cursor_factory": RawCursor,
        "row_factory": dict_row,
        "prepare_threshold": settings.prepare_threshold,
        "connect_timeout": max(2, round(settings.database_timeout / 2)),
        "application_name": "progress-tracking",
        # These notice a server that disappeared: within a minute on an idle connection, else at the deadline.
        "keepalives_idle": own.get("keepalives_idle", 30),
        "keepalives_interval": own.get("keepalives_interval", 10),
        "keepalives_count": own.get("keepalives_count", 3),
        "tcp_user_timeout": own.get("tcp_user_timeout", timeout),
    }
    if settings.prepare_threshold is not None:
        # For some time after a failover, the URL may still lead to the old primary, which is a standby now.
        options["target_session_attrs"] = read_write(settings.database_url)["target_session_attrs"]
        timeouts = {
            "lock_timeout": max(1, timeout * 8 // 10),
            "statement_timeout": max(1, timeout * 9 // 10),
            # A worker that is frozen in the middle of a write must not keep the learner's row locked.
            "idle_in_transaction_session_timeout": timeout,
        }
        given = " ".join(f"-c {name}={value}" for name, value in timeouts.items())
        options["options"] = f"{own.get('options') or ''} {given}".lstrip()
    return options
