"""The pool: a connection for a request, within its deadline; one read, one transaction; and what to do in an outage."""

import atexit
import logging
import math
import threading
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any, TypeVar

from psycopg import Cursor, Error, InterfaceError, IsolationLevel, OperationalError
from psycopg.errors import (
    DeadlockDetected,
    FeatureNotSupported,
    ForeignKeyViolation,
    InternalError_,
    ObjectNotInPrerequisiteState,
    ReadOnlySqlTransaction,
    SerializationFailure,
)
from psycopg.rows import DictRow
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from app.call import Call, current_call
from app.database import readiness, statements
from app.database.connection import Connection, DeadlineError, connect_options
from app.database.statements import Rows, Statement, StatementCall, Step
from app.settings import Settings

T = TypeVar("T")

_log = logging.getLogger("progress.database")

# The errors with which the server rolls a transaction back because of another transaction. ForeignKeyViolation is one
# of them: a statement refers to a row only after it has seen the row, so another transaction has deleted it since.
CONFLICTS = (SerializationFailure, DeadlockDetected, ForeignKeyViolation)
MAX_RETRIES_AFTER_CONFLICTS = 3
# How a standby refuses a write, an unlogged table and a lock. A primary gives each of these errors for other reasons.
STANDBY_REFUSALS = (ReadOnlySqlTransaction, FeatureNotSupported, ObjectNotInPrerequisiteState)
# How Citus says that a node went away in the middle of a statement or of a commit. The SQLSTATE of these errors is
# XX000, internal error. Any other XX000 is a fault of the server, and is answered as one.
LOST_NODE_MESSAGES = (
    "failure on connection marked as essential",
    "could not commit transaction for shard",
    "failed to prepare transaction",
    # Of libpq, between the coordinator and the node.
    "server closed the connection unexpectedly",
    "SSL connection has been closed unexpectedly",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
)
# How long requests wait at the beginning of an outage: one more connection may end it.
OUTAGE_GRACE_SECONDS = 0.15
# During an outage: the time between two attempts to connect, and the time in which a new connection has to answer.
RECONNECT_PAUSE_SECONDS = 0.5
PROOF_SECONDS = 2.0


class DownError(PoolTimeout):
    """The database is down: the request was refused without asking the database."""


class StandbyError(OperationalError):
    """The server is a standby. Its connection is closed, since a failover may have left it at the old server."""


class LostNodeError(OperationalError):
    """A node of a Citus cluster went away. What needs another node goes on."""


class Pool(ConnectionPool[Connection]):
    """A pool that knows whether the database is down.

    An outage begins when the database misses the deadline of a request, or when the last connection is lost and no new
    one can be made. It ends with the first connection that answers. During an outage the pool makes one attempt to
    connect after the other, and refuses requests at once, so that no thread waits.
    """

    def __init__(self, settings: Settings) -> None:
        """Open a pool with at most one connection for each thread of a worker.

        A worker calls this after its fork: neither threads nor sockets survive one.
        """
        self.down = False
        self.outage_began = 0.0  # in seconds of the monotonic clock, as is next_attempt
        self.next_attempt = 0.0
        self.attempting = False  # whether an attempt to connect is running
        self._outage_lock = threading.Lock()
        self._settings = settings
        self._connect_options = connect_options(settings)
        super().__init__(
            settings.database_url,
            connection_class=Connection,
            kwargs=self._options_of_an_attempt,
            configure=self._take_in,
            min_size=1,
            max_size=settings.web_threads,
            # The pool must not repeat attempts by itself. It would wait longer after each one, and would notice minutes
            # too late that the database is back. During an outage, _recover asks it for a connection again and again.
            reconnect_timeout=0,
            # More than one thread would make more than one attempt at a time.
            num_workers=1,
            name="progress",
            open=True,
        )
        # The destructor is too late: from Python 3.13 on it waits ten seconds for the threads, and sometimes the
        # process crashes.
        atexit.register(self.close)

    def _options_of_an_attempt(self) -> dict[str, Any]:
        """Return connect_options. The pool calls this when it begins an attempt to connect."""
        self.attempting = True
        self.next_attempt = monotonic() + self._connect_options["connect_timeout"]
        return self._connect_options

    def _take_in(self, connection: Connection) -> None:
        """Make a new connection ready for use. During an outage the connection has to answer first.

        A proxy may accept connections while its server is away.
        """
        if self.down:
            self._prove(connection)
        self.attempting = False
        # The statements after the lock of a write must see what other transactions wrote while the lock waited. The
        # default of the database may be another level.
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        # PostgreSQL makes the JSON of an answer, and the service sends it unchanged. To parse and write it again would
        # take ten times the Python time.
        connection.adapters.register_loader("json", TextLoader)

    def reconnect_failed(self) -> None:
        """Begin an outage if no connection is left. The pool calls this when it gives up an attempt to connect."""
        self.attempting = False
        self.next_attempt = monotonic() + RECONNECT_PAUSE_SECONDS
        if self.get_stats()["pool_size"] == 0:
            self.begin_outage(monotonic())

    def begin_outage(self, asked: float) -> None:
        """Begin an outage: the database has not answered what was `asked` at that time of the monotonic clock.

        If it was asked before the last outage began, that outage explains it, and no new one begins.
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

    def _retry_after(self) -> str:
        """Return in how many whole seconds, at least 1, the next attempt to connect begins; empty without an outage."""
        return str(max(1, math.ceil(self.next_attempt - monotonic()))) if self.down else ""

    def _prove(self, connection: Connection) -> None:
        """End the outage if the server answers on this connection. Else close the connection and raise the error."""
        connection.deadline = self.next_attempt = monotonic() + PROOF_SECONDS
        try:
            self.check_connection(connection)
        except Error:
            connection.close()
            raise
        self.end_outage()

    def _recover(self, outage: float) -> None:
        """Make the pool attempt to connect, again and again, until the outage that began at this time is over."""
        while self.down and self.outage_began == outage:
            try:
                connection = self.getconn(timeout=RECONNECT_PAUSE_SECONDS)
            except PoolTimeout:
                continue
            except PoolClosed:
                return
            try:
                self._prove(connection)  # it may be a connection from before the outage
            except Error:
                sleep(RECONNECT_PAUSE_SECONDS)
            finally:
                self.putconn(connection)

    def read(self, name: str | Statement, **parameters: str | None) -> DictRow | None:
        """Run one statement that changes nothing, in one trip. Return its first row, None if it has none.

        The statement runs once more, on a new connection, if its connection turns out to be broken.
        """
        label = name if isinstance(name, str) else name.name
        return self.use(label, lambda connection: statements.run(connection, name, **parameters).fetchone(), again=True)

    def read_together(self, names: Sequence[str], **parameters: str | None) -> Rows:
        """Run statements that change nothing, in one trip. Return the first row of each by its name.

        All of them read one snapshot, so their numbers agree. If their connection turns out to be broken, they run once
        more, as in `read`.
        """
        if len(names) == 1:  # one statement has one snapshot without a transaction
            return {names[0]: self.read(names[0], **parameters)}
        begin = b"begin isolation level repeatable read read only"
        return self._transaction(begin, [(name, parameters) for name in names], None, again=True)

    def transaction(self, *calls: StatementCall, then: Step | None = None) -> Rows:
        """Run statements, each once, in one transaction. Without `then`, this is one trip.

        Returns the first row of each statement by its name, None where it has none. `then` makes further statements,
        for a trip of their own.
        """
        return self._transaction(b"begin isolation level read committed", calls, then, again=False)

    def _transaction(self, begin: bytes, calls: Sequence[StatementCall], then: Step | None, again: bool) -> Rows:
        def work(connection: Connection, then: Step | None = then) -> Rows:
            names: list[str] = []
            cursors: list[Cursor[Any]] = []
            rows: Rows = {}

            def trip(further: Sequence[StatementCall], is_last: bool) -> None:
                # connection.transaction() would wait for the server at its begin and at its end. That costs a fifth of
                # the Python time of a write.
                with connection.pipeline():
                    if not names:
                        connection.execute(begin, prepare=False)
                    names.extend(name for name, _ in further)
                    for name, parameters in further:
                        cursors.append(statements.run(connection, name, **parameters))
                    if is_last:
                        connection.execute(b"commit", prepare=False)
                for name, cursor in zip(names[len(rows) :], cursors[len(rows) :], strict=True):
                    rows[name] = cursor.fetchone() if cursor.description else None

            try:
                trip(calls, is_last=then is None)
                while then is not None:
                    following = then(rows)
                    if following is None:
                        connection.rollback()
                        break
                    further, then = following
                    trip(further, is_last=then is None)
                return rows
            except BaseException:
                if not connection.closed:
                    # Statements that are sent together fail together. The first one without a result has failed; the
                    # last ones may not have been sent.
                    done = sum(cursor.pgresult is not None for cursor in cursors)
                    current_call().statement = [*names, "commit"][done]
                    connection.rollback()
                raise

        return self.use("+".join(name for name, _ in calls), work, again)

    def transact(self, label: str, work: Callable[[Connection], T]) -> T:
        """Do work in one transaction, in which each statement is a trip of its own. The log calls it `label`.

        For work that looks at the result of one statement before it sends the next.
        """

        def within(connection: Connection) -> T:
            with connection.transaction():
                return work(connection)

        return self.use(label, within, again=False)

    def use(self, label: str, work: Callable[[Connection], T], again: bool) -> T:
        """Do work on a connection of the pool, before the deadline of the request. The log calls it `label`.

        Work that the server rolled back because of another transaction is done again. Work whose connection broke is
        done once more on a new connection, if `again` allows it. A write must not allow it, since it may have been
        committed.
        """
        call = current_call()
        conflicts = 0
        while True:
            connection = self._take(call)
            call.statement = label
            started = monotonic()
            try:
                return work(connection)
            except CONFLICTS:
                conflicts += 1
                if conflicts > MAX_RETRIES_AFTER_CONFLICTS:
                    raise
            except InternalError_ as error:
                if not (error.diag.message_primary or "").startswith(LOST_NODE_MESSAGES):
                    raise
                raise LostNodeError("a node of the cluster is away") from None
            except DeadlineError:
                if not call.is_probe:
                    self.begin_outage(started)
                    # The cause most likely affects the other connections too.
                    self.drain()
                raise
            except (OperationalError, InterfaceError, *STANDBY_REFUSALS) as error:
                standby = (
                    isinstance(error, STANDBY_REFUSALS)
                    and not connection.closed
                    and readiness.is_standby(connection, self._settings)
                )
                if standby:
                    connection.close()
                if standby or connection.broken:
                    # The other connections are most likely as bad as this one. Good ones are replaced, too.
                    self.drain()
                    if again:
                        again = False
                        continue
                if standby:
                    raise StandbyError("this server is a standby") from None
                raise
            finally:
                if self.down and not connection.closed:
                    self.end_outage()
                call.retry_after = self._retry_after()
                call.statements.append((label, monotonic() - started))
                self.putconn(connection)

    def _take(self, call: Call) -> Connection:
        """Take a connection for a request.

        Raises PoolTimeout if there is none at the request's deadline, and DownError at once during an outage.
        """
        asked = now = monotonic()
        if call.deadline is None:
            call.deadline = now + self._settings.database_timeout
        unused = 0
        while True:
            # Wait in short pieces, since an outage may begin meanwhile.
            timeout = min(OUTAGE_GRACE_SECONDS, call.deadline - now)
            if self.down:
                timeout = min(timeout, self.outage_began + OUTAGE_GRACE_SECONDS - now)
                if timeout <= 0:
                    call.retry_after = self._retry_after()
                    raise DownError("the database is down")
            try:
                connection = self.getconn(timeout=timeout)
            except PoolTimeout:
                now = monotonic()
                if now >= call.deadline:
                    # If no attempt to connect is running, all connections are in use, which is no outage.
                    if self.attempting and not call.is_probe:
                        self.begin_outage(asked)
                    call.retry_after = self._retry_after()
                    raise
                continue
            # A server that speaks before it is asked has most likely ended the session. Nothing was sent on this
            # connection, so the request can use another one. The number of attempts is bounded, since a server may send
            # a message on each new connection.
            if unused < self.max_size and connection.spoke_unasked():
                unused += 1
                connection.close()
                self.putconn(connection)
                continue
            connection.deadline = call.deadline
            call.backend_pid = connection.pgconn.backend_pid
            return connection
