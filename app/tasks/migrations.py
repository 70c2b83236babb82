"""Applies the migrations in migrations/ and takes them back, with yoyo-migrations."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlencode

import yoyo
from psycopg import Connection, Cursor, RawCursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege, UndefinedColumn, UndefinedTable
from psycopg.rows import dict_row, tuple_row
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.exceptions import LockTimeout
from yoyo.migrations import default_migration_table

from app.database import readiness
from app.database.connection import read_write
from app.tasks import TaskError

FOLDER = readiness.MIGRATIONS
# While a migration waits for the lock of a table, all later statements on that table wait behind it. So the migration
# fails soon, and can be repeated.
TIMEOUTS = "select set_config('lock_timeout', '5s', true), set_config('statement_timeout', '0', true)"
# The first schema of a search_path.
FIRST_SCHEMA = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s,"]+))')


class LockedError(TaskError):
    """Another run holds yoyo's lock, or was killed while it held it."""


class DataLossError(TaskError):
    """A rollback would drop data. The text says which data."""


class SchemaError(TaskError):
    """The schema that the URL's search_path names cannot be used. The text says why, and what to do."""


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's backend, which also works through a PgBouncer in transaction mode.

    Such a PgBouncer takes no options at the start of a connection. It may give each transaction another server
    connection, and a setting or a prepared statement of a session stays on the old one, where other clients get it.
    """

    def init_connection(self, connection: Connection[Any]) -> None:
        """Prepare no statement on a connection."""
        super().init_connection(connection)
        connection.prepare_threshold = None

    def begin(self) -> None:
        """Begin a transaction with the timeouts for migrations, which replace those of the connection."""
        super().begin()
        self.execute(TIMEOUTS)


@contextmanager
def _locked(database_url: str, wait: float, create: bool = False) -> Iterator[Any]:
    """Connect, and hold yoyo's lock, so that only one run at a time works on yoyo's tables and creates them."""
    # yoyo calls getpass.getuser(), which fails for a user id that is not in /etc/passwd unless LOGNAME is set.
    os.environ.setdefault("LOGNAME", str(os.getuid()))
    try:
        with _backend(database_url, create) as backend, backend.lock(timeout=wait):
            yield backend
    except LockTimeout as error:
        pid = re.search(r"[0-9]+", str(error))
        who = f"process {pid[0]} (of this or another machine)" if pid else "another run"
        raise LockedError(
            f"{who} has held the migrations' lock for {wait:.0f} s; if it was killed: make migrate-unlock"
        ) from None


def _backend(database_url: str, create: bool) -> Any:
    """Connect as yoyo does, and create its table of locks in our own schema.

    yoyo takes any error of its lock for the lock of another run, and waits. So errors are raised here, before that. A
    site that uses yoyo, too, may have tables of the same names in another schema.
    """
    # The URL has no slashes: with them it would name an empty database, in place of PGDATABASE or a service file.
    uri = parse_uri("postgresql+psycopg:?" + urlencode(read_write(database_url)))
    backend = Backend(uri, default_migration_table)
    try:
        schema = named_schema(backend.connection, database_url)
        if create:
            _create_schema(backend.connection, schema)
        elif schema and not _exists(backend.connection, schema):
            raise SchemaError(f"search_path: there is no schema {schema} yet; make migrate creates it")
        if schema and backend.execute("select current_schema()").fetchone()[0] != schema:
            raise SchemaError(f"search_path: this role may not use the schema {schema}")
        backend.create_lock_table()
        if not backend.execute("select to_regclass(quote_ident(current_schema()) || '.yoyo_lock')").fetchone()[0]:
            backend.execute(backend.format_sql(backend.create_lock_table_sql))
        backend.execute("insert into yoyo_lock (pid) select 0 where false")
    except BaseException:
        backend.connection.close()
        raise
    return backend


def named_schema(connection: Connection[Any], database_url: str) -> str | None:
    """Return the schema that the search_path of the URL names first. Return None if it names none, or `$user`.

    Raises SchemaError if the options of the URL did not reach the database.
    """
    cursor = Cursor(connection, row_factory=tuple_row)
    cursor.execute("select setting, source from pg_settings where name = 'search_path'")
    search_path, source = cursor.fetchone() or ("", "")
    if source != "client":  # the setting is from the role, the database or the server, and not from the URL
        if "search_path" in str(conninfo_to_dict(database_url).get("options")):
            raise SchemaError(
                "DATABASE_URL: its search_path does not reach the database; a PgBouncer ignores options. Leave it out,"
                " and set it for the role: alter role … set search_path = …"
            )
        return None
    first = FIRST_SCHEMA.match(search_path)
    if not first:
        return None
    schema: str = first[1].replace('""', '"') if first[1] else first[2].lower()
    return None if schema == "$user" else schema


def _exists(connection: Connection[Any], schema: str) -> bool:
    return Cursor(connection).execute("select from pg_namespace where nspname = %s", [schema]).rowcount == 1


def _create_schema(connection: Connection[Any], schema: str | None) -> None:
    """Create the schema that the URL names. Refuse if another schema of the search_path has this service's tables."""
    own = """
        select coalesce(to_regclass(schema || '._yoyo_migration'), to_regclass(schema || '.progress'))
        from (select quote_ident(coalesce(%s, current_schema()))) as own (schema)
    """
    if connection.execute(own, [schema]).fetchone() == (None,):
        # In a new, empty schema, the service would seem to have lost all its data.
        try:
            elsewhere = connection.execute(
                "select from _yoyo_migration where migration_id in ('0002_catalog', '0004_progress')"
            ).rowcount
        except (
            UndefinedTable,
            UndefinedColumn,
            InsufficientPrivilege,
        ):  # there is no such table, or it is the site's own
            elsewhere = 0
        if elsewhere == 2:
            raise SchemaError(
                "search_path: the tables of this service are in another schema of it already. Name that schema first,"
                ' or move them (docs/operating.md, "A schema of its own")'
            )
    if not schema:
        return
    with connection.transaction():
        # One run after the other: a commit makes the schema visible a moment before it tells other sessions of it. The
        # lock is released after both.
        connection.execute("select pg_advisory_xact_lock(hashtext('progress-tracking: create schema'))")
        if not _exists(connection, schema):
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        # PostgreSQL remembers which schemas of the search_path are there. If it was told of a new one while it looked
        # for them, it remembers the old answer. A changed setting makes it look again.
        connection.execute("select set_config('search_path', current_setting('search_path'), true)")


def migrate(database_url: str, wait: float) -> Iterator[str]:
    """Apply every pending migration, each in a transaction. Yield the name of each one after it is applied.

    Creates the schema that the URL's search_path names first, if it does not exist. Waits up to `wait` seconds for
    another run to end, then raises LockedError.
    """
    with _locked(database_url, wait, create=True) as backend:
        for migration in backend.to_apply(yoyo.read_migrations(str(FOLDER))):
            backend.apply_one(migration)
            yield migration.id


def rollback(database_url: str, wait: float, confirmed: bool) -> str | None:
    """Take back the newest migration. Return its name, or None if there is none.

    Raises DataLossError, and changes nothing, if the rollback would drop data and is not `confirmed`.
    """
    with _locked(database_url, wait) as backend:
        applied = backend.to_rollback(yoyo.read_migrations(str(FOLDER)))
        if not applied:
            return None
        newest = applied[0]
        lost = re.match(r"-- drops data: (.+)", (FOLDER / f"{newest.id}.rollback.sql").read_text("utf-8"))
        if lost and not confirmed:
            raise DataLossError(f"taking back {newest.id} drops {lost[1]}; if that is meant: make rollback CONFIRM=yes")
        backend.rollback_one(newest)
        return str(newest.id)


def status(database_url: str) -> list[tuple[str, str]]:
    """Return each migration with `applied <UTC time>` or `pending`. This changes nothing."""
    with closing(
        Connection.connect(database_url, autocommit=True, cursor_factory=RawCursor, row_factory=dict_row)
    ) as connection:
        schema = named_schema(connection, database_url)
        missing = schema and not _exists(connection, schema)
        applied = {} if missing else readiness.applied_migrations(connection)
    known = sorted({*readiness.known_migrations(), *applied})
    return [
        (name, f"applied {applied[name]:%Y-%m-%d %H:%M:%S} UTC" if name in applied else "pending") for name in known
    ]


def unlock(database_url: str) -> None:
    """Remove the lock of a run that was killed."""
    with _backend(database_url, create=False) as backend:
        backend.break_lock()
