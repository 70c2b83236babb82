"""The way to PostgreSQL: the statements of sql/, the pool, one read, one transaction."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from flask import current_app
from psycopg import Connection, Cursor, Error, IsolationLevel, OperationalError, RawCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import UndefinedTable
from psycopg.pq import ExecStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool

from app.settings import Settings

ROOT = Path(__file__).parent.parent


class Statement(NamedTuple):
    """One file of sql/ as the server takes it: psql's variables numbered `$1`, `$2`, … as they first appear."""

    query: bytes
    parameters: tuple[str, ...]


class NotReadyError(Exception):
    """The database is not fit to serve from. Its text is one line that says what to do."""


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
    return Statement(f"/* {path.name} */ {query}".encode(), tuple(parameters))


SQL = ROOT / "sql"

# By the file's path without .sql. `admin/…` are those of the make targets, which the service never runs.
STATEMENTS = {path.relative_to(SQL).with_suffix("").as_posix(): load(path) for path in sorted(SQL.rglob("*.sql"))}


def connect_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments for psycopg.connect: every connection of the service is made with these.

    Autocommit: a read is one statement and one trip. The timeouts are given at connect, since a later `set` would leak
    to other clients of a PgBouncer; one without prepared statements (PREPARE_THRESHOLD=off) takes no options at all,
    and there they belong to the role. Half of DATABASE_TIMEOUT is for getting a connection, half for a statement.
    """
    options: dict[str, Any] = {
        "autocommit": True,
        "cursor_factory": RawCursor,
        "row_factory": dict_row,
        "prepare_threshold": settings.prepare_threshold,
        "connect_timeout": max(2, round(settings.database_timeout / 2)),
        "application_name": "progress-tracking",
    }
    if settings.prepare_threshold is not None:
        own = conninfo_to_dict(settings.database_url).get("options") or ""
        timeout = max(1, round(settings.database_timeout * 500))  # milliseconds; 0 would be none at all
        options["options"] = f"{own} -c statement_timeout={timeout}".lstrip()
    return options


def check(settings: Settings) -> None:
    """Raise NotReadyError unless the database answers, has every migration, and takes every statement of sql/."""
    try:
        with Connection.connect(settings.database_url, **connect_options(settings)) as connection:
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
            if settings.auth_session_table:
                _check_session_table(connection, settings.auth_session_table)
    except OperationalError as error:
        raise NotReadyError(f"DATABASE_URL: no connection: {' '.join(str(error).split())}") from None
    except Error as error:  # a role without rights, say
        raise NotReadyError(f"DATABASE_URL: {error.diag.message_primary}") from None


def _check_session_table(connection: Connection[Any], session_table: str) -> None:
    try:
        # Run and not only prepared: the role may lack the right to read the site's table.
        run(connection, session_statement(session_table), session_token="")
    except OperationalError:
        raise
    except Error as error:
        raise NotReadyError(f"AUTH_SESSION_TABLE: {error.diag.message_primary}") from None


def known_migrations() -> list[str]:
    """Name the migrations of migrations/, oldest first."""
    return [path.stem for path in sorted((ROOT / "migrations").glob("*.sql")) if ".rollback" not in path.name]


def applied_migrations(connection: Connection[Any]) -> dict[str, datetime]:
    """Name the migrations that the database has, each with when it was applied, in UTC."""
    try:
        return {row["migration_id"]: row["applied_at_utc"] for row in run(connection, "applied_migrations")}
    except UndefinedTable:  # none was ever applied
        return {}


def session_statement(session_table: str) -> Statement:
    """The statement that looks a database session up, in the site's table."""
    return load(SQL / "session.sql", session_table)


def open_pool(settings: Settings) -> ConnectionPool[Connection[DictRow]]:
    """Open a pool, one connection for each thread that a worker has.

    Only after the worker's fork: a pool's threads and sockets do not survive one.
    """
    return ConnectionPool(
        settings.database_url,
        kwargs=connect_options(settings),
        configure=_configure,
        min_size=1,
        max_size=settings.web_threads,
        timeout=settings.database_timeout / 2,
        name="progress",
        open=True,
    )


def _configure(connection: Connection[Any]) -> None:
    # A write's later statements must see what its lock waited for, whatever default the database was given.
    connection.isolation_level = IsolationLevel.READ_COMMITTED
    # An answer is JSON made by PostgreSQL and passed on as it is: to parse it here and dump it again cost ten times
    # the Python.
    connection.adapters.register_loader("json", TextLoader)


def run(connection: Connection[Any], name: str | Statement, /, **parameters: str | None) -> Cursor[Any]:
    """Execute a statement, or that of sql/<name>.sql, on a connection whose cursors are RawCursor.

    Parameters are text (None: null); the statement casts each.
    """
    statement = STATEMENTS[name] if isinstance(name, str) else name
    return connection.execute(statement.query, [parameters[key] for key in statement.parameters])


def find(name: str | Statement, **parameters: str | None) -> DictRow | None:
    """Run one statement in a transaction of its own, in one trip, and return its row if there is one."""
    with _pool().connection() as connection:
        row: DictRow | None = run(connection, name, **parameters).fetchone()
        return row


def read(name: str, **parameters: str | None) -> DictRow:
    """Run one statement that returns one row, in one trip."""
    with _pool().connection() as connection:
        return one(run(connection, name, **parameters))


def one(cursor: Cursor[Any]) -> DictRow:
    """Fetch the row of a statement that returns one, whatever is in the tables."""
    row: DictRow | None = cursor.fetchone()
    if row is None:
        raise LookupError("a statement that returns one row returned none")
    return row


@contextmanager
def transaction() -> Iterator[Connection[DictRow]]:
    """Run statements in one transaction and one trip: they are sent together, and committed at the end of the block.

    Fetch from their cursors only after the block: a fetch inside it would wait for the server in between.
    """
    with _pool().connection() as connection, connection.pipeline(), connection.transaction():
        yield connection


def _pool() -> ConnectionPool[Connection[DictRow]]:
    pool: ConnectionPool[Connection[DictRow]] = current_app.extensions["pool"]
    return pool
