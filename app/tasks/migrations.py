"""The migrations of migrations/, applied and taken back by yoyo-migrations."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

import yoyo
from psycopg import Connection, Cursor, RawCursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import DuplicateSchema, InsufficientPrivilege, UndefinedColumn, UndefinedTable, UniqueViolation
from psycopg.rows import dict_row, tuple_row
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.exceptions import LockTimeout
from yoyo.migrations import default_migration_table

from app.database import readiness
from app.database.connection import read_write
from app.tasks import TaskError

FOLDER = readiness.MIGRATIONS
# A migration that waits for a table's lock holds up everybody who comes after it: better that it fails, to be repeated.
TIMEOUTS = "select set_config('lock_timeout', '5s', true), set_config('statement_timeout', '0', true)"
# The first schema of a search_path.
FIRST_SCHEMA = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s,"]+))')


class LockedError(TaskError):
    """Another run holds yoyo's lock, or was killed while it held it."""


class DataLossError(TaskError):
    """A rollback would drop data. Its text says what."""


class SchemaError(TaskError):
    """The schema that the URL's search_path names cannot be used. Its text says why, and what to do."""


class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
    """yoyo's backend for any connection, one through a PgBouncer in transaction mode too.

    Such a PgBouncer takes no options at startup. What is set for a session, and what is prepared, stays on the server's
    connection, which the next transaction may not get, and another client may.
    """

    def init_connection(self, connection: Connection[Any]) -> None:
        """Prepare no statement on a connection."""
        super().init_connection(connection)
        connection.prepare_threshold = None

    def begin(self) -> None:
        """Begin a transaction, with the timeouts of migrations in place of the connection's."""
        super().begin()
        self.execute(TIMEOUTS)


@contextmanager
def _locked(database_url: str, wait: float, create: bool = False) -> Iterator[Any]:
    """Connect, and hold yoyo's lock: one at a time works on its tables, and creates them."""
    # getpass.getuser(), which yoyo logs, fails for a user id that /etc/passwd does not have.
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
    """Connect as yoyo does. It takes any error of its lock for another run's, and waits: here they are raised.

    yoyo's tables are those of our own schema: a site that uses yoyo too has tables of the same names.
    """
    # Without slashes: they would name an empty database, over PGDATABASE and over a service file's.
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
    """Return the schema that the search_path of the URL names first, None for none and for the role's own (`$user`).

    Raises SchemaError where the URL's options did not reach the database.
    """
    cursor = Cursor(connection, row_factory=tuple_row)
    cursor.execute("select setting, source from pg_settings where name = 'search_path'")
    search_path, source = cursor.fetchone() or ("", "")
    if source != "client":  # not what this connection brought, but the role's, the database's or the server's
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
    """Create the schema that the URL names, unless the tables of this service are in another one of the search_path."""
    own = """
        select coalesce(to_regclass(schema || '._yoyo_migration'), to_regclass(schema || '.progress'))
        from (select quote_ident(coalesce(%s, current_schema()))) as own (schema)
    """
    if connection.execute(own, [schema]).fetchone() == (None,):
        # Started anew in an empty schema, the service would seem to have lost everything.
        try:
            elsewhere = connection.execute(
                "select from _yoyo_migration where migration_id in ('0002_catalog', '0004_progress')"
            ).rowcount
        except (UndefinedTable, UndefinedColumn, InsufficientPrivilege):  # none at all, or the site's own
            elsewhere = 0
        if elsewhere == 2:
            raise SchemaError(
                "search_path: the tables of this service are in another schema of it already. Name that schema first,"
                ' or move them (docs/operating.md, "A schema of its own")'
            )
    if schema and not _exists(connection, schema):
        with suppress(DuplicateSchema, UniqueViolation):  # another run was faster
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))


def migrate(database_url: str, wait: float) -> Iterator[str]:
    """Apply every pending migration, each in a transaction; yield the name of each one that was.

    The schema that the URL's search_path names first is created if it is not there. Waits `wait` seconds for another
    run to end, then raises LockedError.
    """
    with _locked(database_url, wait, create=True) as backend:
        for migration in backend.to_apply(yoyo.read_migrations(str(FOLDER))):
            backend.apply_one(migration)
            yield migration.id


def rollback(database_url: str, wait: float, confirmed: bool) -> str | None:
    """Take back the newest migration and return its name, None if there is none.

    Raises DataLossError, and does nothing, where that drops data and is not confirmed.
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
    """List each migration with `applied <UTC time>` or `pending`; changes nothing."""
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
    """Remove the lock that a killed run left behind."""
    with _backend(database_url, create=False) as backend:
        backend.break_lock()
