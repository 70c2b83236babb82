"""The migrations of migrations/, applied and taken back by yoyo-migrations."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlencode

import yoyo
from psycopg import Connection, RawCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from yoyo.exceptions import LockTimeout

from app import database

FOLDER = database.ROOT / "migrations"
# A migration that waits for a table's lock holds up everybody who comes after it: better that it fails, to be repeated.
OPTIONS = "-c lock_timeout=5s -c statement_timeout=0"


class LockedError(Exception):
    """Another run holds yoyo's lock, or was killed while it held it."""


class DataLossError(Exception):
    """A rollback would drop data. Its text says what."""


@contextmanager
def _locked(database_url: str, wait: float) -> Iterator[Any]:
    """Connect, and hold yoyo's lock: one at a time works on its tables, and creates them."""
    # getpass.getuser(), which yoyo logs, fails for a user id that /etc/passwd does not have.
    os.environ.setdefault("LOGNAME", str(os.getuid()))
    parameters = conninfo_to_dict(database_url)
    parameters["options"] = f"{parameters.get('options') or ''} {OPTIONS}".lstrip()
    try:
        with _backend(parameters) as backend, backend.lock(timeout=wait):
            yield backend
    except LockTimeout as error:
        pid = re.search(r"[0-9]+", str(error))
        who = f"process {pid[0]} (of this or another machine)" if pid else "another run"
        raise LockedError(
            f"{who} has held the migrations' lock for {wait:.0f} s; if it was killed: make migrate-unlock"
        ) from None


def _backend(parameters: dict[str, Any]) -> Any:
    """Connect as yoyo does. It takes any error of its lock for another run's, and waits: here they are raised."""
    # Without slashes: they would name an empty database, over PGDATABASE and over a service file's.
    backend = yoyo.get_backend("postgresql+psycopg:?" + urlencode(parameters))
    try:
        if not backend.execute("select to_regclass('yoyo_lock')").fetchone()[0]:
            backend.execute(backend.format_sql(backend.create_lock_table_sql))
        backend.execute("insert into yoyo_lock (pid) select 0 where false")
    except BaseException:
        backend.connection.close()
        raise
    return backend


def migrate(database_url: str, wait: float) -> Iterator[str]:
    """Apply every pending migration, each in a transaction; yield the name of each one that was.

    Waits `wait` seconds for another run to end, then raises LockedError.
    """
    with _locked(database_url, wait) as backend:
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
        applied = database.applied_migrations(connection)
    known = sorted({*database.known_migrations(), *applied})
    return [
        (name, f"applied {applied[name]:%Y-%m-%d %H:%M:%S} UTC" if name in applied else "pending") for name in known
    ]


def unlock(database_url: str) -> None:
    """Remove the lock that a killed run left behind."""
    with _backend(conninfo_to_dict(database_url)) as backend:
        backend.break_lock()
