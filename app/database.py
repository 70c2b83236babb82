"""The way to PostgreSQL: the statements of sql/, the pool, one read, one transaction."""

import atexit
import json
import logging
import math
import re
import select
import threading
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple, Self, TypeVar

import psycopg
from flask import current_app
from psycopg import Cursor, Error, InterfaceError, IsolationLevel, OperationalError, RawCursor
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import (
    DeadlockDetected,
    FeatureNotSupported,
    ForeignKeyViolation,
    ObjectNotInPrerequisiteState,
    ReadOnlySqlTransaction,
    SerializationFailure,
    UndefinedTable,
)
from psycopg.pq import ExecStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from app.call import Call, current_call
from app.settings import Settings

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
SQL = ROOT / "sql"

_log = logging.getLogger("progress.database")

# What the server rolls back for the sake of another transaction. A foreign key, too: no statement writes one without
# having seen the row, so that somebody has deleted that since.
CONFLICT = (SerializationFailure, DeadlockDetected, ForeignKeyViolation)
# How often a request is tried again for one.
CONFLICTS = 3
# How a standby refuses a write, an unlogged table and a lock. A primary has other reasons for each of these errors.
STANDBY = (ReadOnlySqlTransaction, FeatureNotSupported, ObjectNotInPrerequisiteState)
# Seconds that requests wait at the beginning of an outage, which may be over as soon as one more connection is made.
GRACE_SECONDS = 0.15
# Seconds between two attempts to connect during an outage, and how long one that was made has to answer.
PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 2.0


class Statement(NamedTuple):
    """One file of sql/ as the server takes it: psql's variables numbered `$1`, `$2`, … as they first appear."""

    name: str
    query: bytes
    parameters: tuple[str, ...]


class NotReadyError(Exception):
    """The database is not fit to serve from. Its text is one line that says what to do."""


class DeadlineError(OperationalError):
    """A request's DATABASE_TIMEOUT was over while it waited for the server."""


class DownError(PoolTimeout):
    """The database is down, so that the request was refused without asking it."""


class StandbyError(OperationalError):
    """The server is a standby. The connection is closed, since a failover may have left it where it was."""


class Connection(psycopg.Connection[DictRow]):
    """A connection on which nobody waits beyond the deadline of the request that has it."""

    deadline = float("inf")  # on the monotonic clock

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """Connect as psycopg does, and close the socket at once if that takes too long.

        psycopg leaves the socket to the garbage collector. Attempts would pile up at a server that is frozen.
        """
        try:
            return super().connect(*args, **kwargs)
        except OperationalError as error:
            for each in (error, error.__context__):
                traceback.clear_frames(each.__traceback__ if each else None)
            raise

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server as psycopg does; raise DeadlineError, and close the connection, at the deadline.

        The server's own timeouts do not help where it is frozen, or the network swallows what it says.
        """
        try:
            return super().wait(gen, interval, max(0.0, self.deadline - monotonic()))
        except OperationalError:
            if monotonic() < self.deadline:
                raise
            self.close()
            raise DeadlineError("DATABASE_TIMEOUT is over") from None

    def spoke_unasked(self) -> bool:
        """Whether the other side has sent something, or has closed the connection, before it was asked anything."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))


class Pool(ConnectionPool[Connection]):
    """A pool that knows whether the database is down.

    An outage begins when a request's deadline passes before the database answered, or when the last connection is lost
    and none can be made. It ends with the first connection that answers. In between, the pool goes on making one
    attempt to connect at a time, and requests are refused at once, so that no thread waits.
    """

    def __init__(self, settings: Settings) -> None:
        """Open a pool of one connection for each thread that a worker has."""
        self.down = False
        self.outage_began = 0.0  # on the monotonic clock, as is the next
        self.next_attempt = 0.0
        self.attempting = False  # to connect
        self._outage_lock = threading.Lock()
        self._connect_options = connect_options(settings)
        super().__init__(
            settings.database_url,
            connection_class=Connection,
            kwargs=self._options_of_an_attempt,
            configure=self._take_in,
            min_size=1,
            max_size=settings.web_threads,
            # Left to try again by itself, the pool would wait longer each time, and notice for minutes nothing of a
            # database that is back. During an outage _recover asks it for a connection again and again.
            reconnect_timeout=0,
            # Each worker would make attempts of its own.
            num_workers=1,
            name="progress",
            open=True,
        )

    def _options_of_an_attempt(self) -> dict[str, Any]:
        """Return connect_options. The pool calls this when it begins an attempt to connect."""
        self.attempting = True
        self.next_attempt = monotonic() + self._connect_options["connect_timeout"]
        return self._connect_options

    def _take_in(self, connection: Connection) -> None:
        """Make a new connection ready for use. During an outage it has to answer before anybody gets it.

        A proxy may let clients in while its server is away.
        """
        if self.down:
            self._prove(connection)
        self.attempting = False
        # A write's later statements must see what its lock waited for, whatever default the database was given.
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        # An answer is JSON made by PostgreSQL and passed on as it is: to parse it here and dump it again cost ten times
        # the Python.
        connection.adapters.register_loader("json", TextLoader)

    def reconnect_failed(self) -> None:
        """Begin an outage if there is no connection left. The pool calls this when it gives up on one."""
        self.attempting = False
        self.next_attempt = monotonic() + PAUSE_SECONDS
        if self.get_stats()["pool_size"] == 0:
            self.begin_outage(monotonic())

    def begin_outage(self, asked: float) -> None:
        """Begin an outage, since the database has not answered what it was `asked` at that time.

        An answer that has been missing since before the last outage tells nothing new.
        """
        with self._outage_lock:
            if self.down or asked < self.outage_began:
                return
            self.outage_began = monotonic()
            self.down = True
        _log.error("the database does not answer: requests are refused until it does")
        threading.Thread(target=self._recover, args=(self.outage_began,), name="progress-recover", daemon=True).start()

    def end_outage(self) -> None:
        """End the outage: a connection has answered."""
        with self._outage_lock:
            if not self.down:
                return
            self.down = False
        _log.warning("the database answers again, after %.1f s", monotonic() - self.outage_began)

    def retry_after(self) -> str | None:
        """Return in how many whole seconds, at least 1, the next attempt to connect begins; None without an outage."""
        return str(max(1, math.ceil(self.next_attempt - monotonic()))) if self.down else None

    def _prove(self, connection: Connection) -> None:
        """End the outage if the server answers on a connection; close the connection and raise what happened if not."""
        connection.deadline = self.next_attempt = monotonic() + ANSWER_SECONDS
        try:
            self.check_connection(connection)
        except Error:
            connection.close()
            raise
        self.end_outage()

    def _recover(self, outage: float) -> None:
        """Have the pool make one attempt after the other until the outage is over."""
        while self.down and self.outage_began == outage:
            try:
                connection = self.getconn(timeout=PAUSE_SECONDS)
            except PoolTimeout:
                continue
            except PoolClosed:
                return
            try:
                self._prove(connection)  # it may be one that the pool had before
            except Error:
                sleep(PAUSE_SECONDS)
            finally:
                self.putconn(connection)


def load(path: Path, session_table: str = ":session_table") -> Statement:
    """Read one statement file; `:'name'`, which psql quotes as a literal, becomes a parameter.

    `session_table`, checked and quoted already, takes the place of the one variable that is a name and no literal.

    The file's name goes in front as a comment on the same line, so that pg_stat_statements, auto_explain and the log
    tell which file a statement is, and an error's line number is still the file's.
    """
    parameters: list[str] = []

    def number(variable: re.Match[str]) -> str:
        if variable[1] not in parameters:
            parameters.append(variable[1])
        return f"${parameters.index(variable[1]) + 1}"

    query = re.sub(r":'(\w+)'", number, path.read_text("utf-8").replace(":session_table", session_table))
    file = path.relative_to(SQL).as_posix() if path.is_relative_to(SQL) else path.name
    return Statement(file.removesuffix(".sql"), f"/* {file} */ {query}".encode(), tuple(parameters))


# By the file's path without .sql. `admin/…` are those of the make targets, which the service never runs.
STATEMENTS = {path.relative_to(SQL).with_suffix("").as_posix(): load(path) for path in sorted(SQL.rglob("*.sql"))}


def _tables() -> list[str]:
    """Name the tables of the service's statements, and some CTEs and columns, which the database has no table for."""
    texts = (statement.query.decode() for name, statement in STATEMENTS.items() if not name.startswith("admin/"))
    naming = re.compile(r"\b(?:from|join|into|update)\s+(\w+)\b(?!\s*\()")
    return sorted({table for text in texts for table in naming.findall(re.sub("--.*", "", text))})


TABLES = _tables()


def read_write(database_url: str) -> dict[str, Any]:
    """Return the parameters of a libpq URL, which refuse a standby unless the URL says otherwise."""
    return {"target_session_attrs": "read-write"} | conninfo_to_dict(database_url)


def connect_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for psycopg.connect: every connection of the service is made with these.

    Autocommit: a read is one statement and one trip. The server's timeouts are given at connect, since a later `set`
    would leak to other clients of a PgBouncer; one without prepared statements (PREPARE_THRESHOLD=off) takes no options
    at all, and there they are the role's (deploy/grants.sql). They end a statement a little before the request's
    deadline does, for the deadline costs the connection.

    Behind such a PgBouncer a standby is not refused at connect either: it tells each client what the first server said
    of itself, also after a promotion. There readiness.sql and the errors of a standby are all that tells.
    """
    own = conninfo_to_dict(settings.database_url)
    timeout = max(1, round(settings.database_timeout * 1000))  # milliseconds; 0 would be none at all
    options: dict[str, Any] = {
        "autocommit": True,
        "cursor_factory": RawCursor,
        "row_factory": dict_row,
        "prepare_threshold": settings.prepare_threshold,
        "connect_timeout": max(2, round(settings.database_timeout / 2)),
        "application_name": "progress-tracking",
        # A server that went without a word is noticed in a minute on an idle connection, else at the deadline.
        "keepalives_idle": own.get("keepalives_idle", 30),
        "keepalives_interval": own.get("keepalives_interval", 10),
        "keepalives_count": own.get("keepalives_count", 3),
        "tcp_user_timeout": own.get("tcp_user_timeout", timeout),
    }
    if settings.prepare_threshold is not None:
        # For a while after a failover, the URL may still lead to the old primary, which is a standby now.
        options["target_session_attrs"] = read_write(settings.database_url)["target_session_attrs"]
        timeouts = {
            "lock_timeout": max(1, timeout * 8 // 10),
            "statement_timeout": max(1, timeout * 9 // 10),
            # A worker that is frozen within a write must not keep the learner's row locked.
            "idle_in_transaction_session_timeout": timeout,
        }
        given = " ".join(f"-c {name}={value}" for name, value in timeouts.items())
        options["options"] = f"{own.get('options') or ''} {given}".lstrip()
    return options


def check(settings: Settings) -> None:
    """Raise NotReadyError unless the database answers, is fit, has every migration, and takes every statement."""
    try:
        with psycopg.Connection.connect(settings.database_url, **connect_options(settings)) as connection:
            # First, since readiness.sql, too, looks at the site's table, and names no setting.
            if settings.auth_session_table:
                _check_session_table(connection, settings.auth_session_table)
            unfit = _unfit(_readiness(connection, settings))
            if unfit:
                raise NotReadyError(f"DATABASE_URL: {unfit}")
            applied = applied_migrations(connection)
            pending = [name for name in known_migrations() if name not in applied]
            if pending:
                raise NotReadyError(f"pending migrations: {', '.join(pending)}; apply them with: make migrate")
            for name, statement in STATEMENTS.items():
                # A site's own users table may lack what the make targets write to it; that need not stop the service.
                if name.startswith("admin/"):
                    continue
                if name == "session":
                    continue
                result = connection.pgconn.prepare(b"", statement.query)
                if result.status != ExecStatus.COMMAND_OK:
                    raise NotReadyError(
                        f"sql/{name}.sql does not prepare: {' '.join(result.get_error_message().split())}"
                    )
    except OperationalError as error:
        raise NotReadyError(f"DATABASE_URL: no connection: {' '.join(str(error).split())}") from None
    except Error as error:  # a role without rights, say
        raise NotReadyError(f"DATABASE_URL: {error.diag.message_primary}") from None


def _check_session_table(connection: psycopg.Connection[Any], session_table: str) -> None:
    try:
        # Run and not only prepared: the role may lack the right to read the site's table.
        run(connection, session_statement(session_table), session_token="")
    except OperationalError:
        raise
    except Error as error:
        raise NotReadyError(f"AUTH_SESSION_TABLE: {error.diag.message_primary}") from None


def _readiness(connection: psycopg.Connection[Any], settings: Settings) -> DictRow:
    tables = [*TABLES, *filter(None, [settings.auth_session_table])]
    return one(run(connection, "readiness", tables=json.dumps(tables)).fetchone())


def _unfit(readiness: DictRow) -> str | None:
    """Say in one line why the service cannot work with the server that gave a row of readiness.sql; None if it can."""
    if readiness["in_recovery"]:
        return "this server is a standby, which takes no writes; name the primary"
    if readiness["filtered"]:
        role, tables = readiness["role"], ", ".join(readiness["filtered"])
        return (
            f"row level security hides rows from the role {role} in: {tables}; "
            f"run as a superuser: alter role {role} bypassrls; or make {role} the owner of what is listed"
        )
    return None


def known_migrations() -> list[str]:
    """Name the migrations of migrations/, oldest first."""
    return [path.stem for path in sorted((ROOT / "migrations").glob("*.sql")) if ".rollback" not in path.name]


def applied_migrations(connection: psycopg.Connection[Any]) -> dict[str, datetime]:
    """Name the migrations that the database has, each with when it was applied, in UTC."""
    try:
        return {row["migration_id"]: row["applied_at_utc"] for row in run(connection, "applied_migrations")}
    except UndefinedTable:  # none was ever applied
        return {}


def session_statement(session_table: str) -> Statement:
    """The statement that looks a database session up, in the site's table."""
    return load(SQL / "session.sql", session_table)


def open_pool(settings: Settings) -> Pool:
    """Open a pool, one connection for each thread that a worker has.

    Only after the worker's fork: a pool's threads and sockets do not survive one.
    """
    pool = Pool(settings)
    # Left to the destructor, from Python 3.13 on its threads are waited for in vain, ten seconds long, and now and then
    # the process crashes.
    atexit.register(pool.close)
    return pool


def run(connection: psycopg.Connection[Any], name: str | Statement, /, **parameters: str | None) -> Cursor[Any]:
    """Execute a statement, or that of sql/<name>.sql, on a connection whose cursors are RawCursor.

    Parameters are text (None: null); the statement casts each.
    """
    statement = STATEMENTS[name] if isinstance(name, str) else name
    return connection.execute(statement.query, [parameters[key] for key in statement.parameters])


def read(name: str | Statement, **parameters: str | None) -> DictRow | None:
    """Run one statement that changes nothing, in one trip; return its first row, None if it has none.

    It is run once more where its connection turns out to be broken.
    """
    return _use(_label(name), lambda connection: run(connection, name, **parameters).fetchone(), again=True)


def write(name: str, **parameters: str | None) -> DictRow | None:
    """Run one statement that changes something, and may do so twice without harm; return its first row, None if none.

    It is a transaction of its own, in one trip, and is run once more where its connection turns out to be broken.
    """
    return _use(_label(name), lambda connection: run(connection, name, **parameters).fetchone(), again=True)


def transaction(*calls: tuple[str, dict[str, str | None]]) -> list[DictRow | None]:
    """Run statements, each with its parameters, in one transaction and one trip: they are sent together.

    Returns the first row of each, None where it has none.
    """

    def work(connection: Connection) -> list[DictRow | None]:
        cursors: list[Cursor[Any]] = []
        try:
            # Not connection.transaction(), which waits at each of its ends: a fifth of what a write costs Python.
            with connection.pipeline():
                connection.execute(b"begin isolation level read committed", prepare=False)
                for name, parameters in calls:
                    cursors.append(run(connection, name, **parameters))
                connection.execute(b"commit", prepare=False)
        except BaseException:
            if not connection.closed:
                # Sent together, they fail together: the one that failed is the first without a result. It may have
                # failed before the last were sent.
                done = sum(cursor.pgresult is not None for cursor in cursors)
                current_call().statement = [*(name for name, _ in calls), "commit"][done]
                connection.rollback()
            raise
        return [cursor.fetchone() for cursor in cursors]

    return _use("+".join(name for name, _ in calls), work, again=False)


def transact(label: str, work: Callable[[Connection], T]) -> T:
    """Do work in one transaction, a trip for each of its statements: for what decides between them."""

    def within(connection: Connection) -> T:
        with connection.transaction():
            return work(connection)

    return _use(label, within, again=False)


def unfit() -> str | None:
    """Say in one line why the database is not fit to serve from, by a connection of the pool; None if it is fit."""
    settings: Settings = current_app.extensions["settings"]
    return _use("readiness", lambda connection: _unfit(_readiness(connection, settings)), again=True)


def applied() -> set[str]:
    """Name the migrations that the database has, by a connection of the pool."""
    return _use("applied_migrations", lambda connection: set(applied_migrations(connection)), again=True)


def one(row: DictRow | None) -> DictRow:
    """Return the row of a statement that returns one, whatever is in the tables."""
    if row is None:
        raise LookupError("a statement that returns one row returned none")
    return row


def _label(name: str | Statement) -> str:
    return name if isinstance(name, str) else name.name


def _use(label: str, work: Callable[[Connection], T], again: bool) -> T:
    """Do work on a connection of the pool, within the request's DATABASE_TIMEOUT.

    What the server rolled back for the sake of another transaction is tried again. What met a broken connection is
    tried on a fresh one, once, if it may be done `again`: nobody can tell whether a write on it was committed.
    """
    pool: Pool = current_app.extensions["pool"]
    call = current_call()
    conflicts = 0
    while True:
        connection = _take(pool, call)
        call.statement = label
        started = monotonic()
        try:
            return work(connection)
        except CONFLICT:
            conflicts += 1
            if conflicts > CONFLICTS:
                raise
        except DeadlineError:
            pool.begin_outage(started)
            # What keeps one connection from answering most likely does so with the pool's others.
            pool.drain()
            raise
        except (OperationalError, InterfaceError, *STANDBY) as error:
            standby = isinstance(error, STANDBY) and not connection.closed and _is_standby(connection)
            if standby:
                connection.close()
            if standby or connection.broken:
                # The pool's others are most likely no better. Those that are better are replaced all the same.
                pool.drain()
                if again:
                    again = False
                    continue
            if standby:
                raise StandbyError("this server is a standby") from None
            raise
        finally:
            if pool.down and not connection.closed:
                pool.end_outage()
            call.statements.append((label, monotonic() - started))
            pool.putconn(connection)


def _is_standby(connection: Connection) -> bool:
    return _readiness(connection, current_app.extensions["settings"])["in_recovery"] is True


def _take(pool: Pool, call: Call) -> Connection:
    """Take a connection from the pool.

    Raises PoolTimeout if there is none by the request's deadline, and DownError at once during an outage.
    """
    asked = now = monotonic()
    deadline = call.deadline or now + current_app.extensions["settings"].database_timeout
    call.deadline = deadline
    unused = 0
    while True:
        # In short pieces, since an outage may begin meanwhile.
        timeout = min(GRACE_SECONDS, deadline - now)
        if pool.down:
            timeout = min(timeout, pool.outage_began + GRACE_SECONDS - now)
            if timeout <= 0:
                raise DownError("the database is down")
        try:
            connection = pool.getconn(timeout=timeout)
        except PoolTimeout:
            now = monotonic()
            if now >= deadline:
                if pool.attempting:  # else the connections that there are were all in use
                    pool.begin_outage(asked)
                raise
            continue
        # A server that speaks before it is asked has ended the session, most likely. Nothing was sent yet, so any
        # other connection will do. The loop ends where a server greets each new connection with a message.
        if unused < pool.max_size and connection.spoke_unasked():
            unused += 1
            connection.close()
            pool.putconn(connection)
            continue
        connection.deadline = deadline
        call.backend_pid = connection.pgconn.backend_pid
        return connection
