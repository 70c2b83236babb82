"""Whether the database is fit to serve from: for the check before a start, /readyz, and errors that a standby gives."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Error, OperationalError
from psycopg.errors import InsufficientPrivilege, UndefinedTable
from psycopg.pq import ExecStatus
from psycopg.rows import DictRow

from app.database import statements
from app.database.connection import connect_options
from app.database.statements import STATEMENTS, TABLES, TASK_FOLDERS
from app.settings import DatabaseSettings, DeliverySettings, Settings

MIGRATIONS = Path(__file__).parent.parent.parent / "migrations"


class NotReadyError(Exception):
    """The database is not fit to serve from. The text is one line that says what to do."""


# The user id of no learner.
NOBODY = "00000000-0000-0000-0000-000000000000"


def check(settings: Settings) -> None:
    """Raise NotReadyError unless the database answers, is fit, has every migration, and takes every statement."""
    with _ready_connection(settings) as connection:
        # This comes first, because its error names the setting. readiness.sql also reads the site's table, but its
        # error names no setting.
        if settings.auth_session_table:
            _check_session_table(connection, settings.auth_session_table)
        _check_server(connection, _tables(settings))
        reason = unable_to_add(connection, settings)
        if reason:
            raise NotReadyError(reason)
        _check_migrations(connection)
        _check_statements(connection)
        # PostgreSQL checks no right when it prepares a statement. So run statements that need the rights which the
        # newest migrations added.
        for name, values in (
            ("summary", {"user_id": NOBODY}),
            ("export", {"user_id": NOBODY}),
            ("learner_tag_key", {}),
        ):
            statements.run(connection, name, **values)
        if settings.webhook_url:
            statements.run(connection, "events/add", user_id=NOBODY, events="[]")


def check_delivery(settings: DeliverySettings) -> None:
    """Raise NotReadyError unless `make deliver` can work with the database."""
    with _ready_connection(settings) as connection:
        _check_server(connection, ["users", "events"])
        _check_migrations(connection)
        statements.run(connection, "events/claim", limit="0")
        statements.run(connection, "events/lock", user_id=NOBODY)
        statements.run(connection, "events/record", attempts="[]")
        statements.run(connection, "events/expire")


@contextmanager
def _ready_connection(settings: DatabaseSettings) -> Iterator[psycopg.Connection[Any]]:
    """Connect. Turn an error of the database, here and later, into a NotReadyError."""
    try:
        with psycopg.Connection.connect(settings.database_url, **connect_options(settings)) as connection:
            yield connection
    except InsufficientPrivilege as error:
        raise NotReadyError(
            f"DATABASE_URL: {error.diag.message_primary}; was deploy/grants.sql run after make migrate?"
        ) from None
    except OperationalError as error:
        raise NotReadyError(f"DATABASE_URL: no connection: {' '.join(str(error).split())}") from None
    except Error as error:  # the role lacks a right, for instance
        raise NotReadyError(f"DATABASE_URL: {error.diag.message_primary}") from None


def _check_server(connection: psycopg.Connection[Any], tables: list[str]) -> None:
    reason = _unfit(connection, tables)
    if reason:
        raise NotReadyError(f"DATABASE_URL: {reason}")


def _check_migrations(connection: psycopg.Connection[Any]) -> None:
    applied = applied_migrations(connection)
    pending = [name for name in known_migrations() if name not in applied]
    if pending:
        raise NotReadyError(f"pending migrations: {', '.join(pending)}; apply them with: make migrate")


def _check_session_table(connection: psycopg.Connection[Any], session_table: str) -> None:
    try:
        # Run it, and do not only prepare it: the role may lack the right to read the site's table.
        statements.run(connection, statements.session_statement(session_table), session_token="")
    except OperationalError:
        raise
    except Error as error:
        raise NotReadyError(f"AUTH_SESSION_TABLE: {error.diag.message_primary}") from None


def _check_statements(connection: psycopg.Connection[Any]) -> None:
    for name, statement in STATEMENTS.items():
        # A site's own users table may lack columns that the make targets write. The service can start all the same.
        if name.startswith(TASK_FOLDERS) or name == "session":
            continue
        result = connection.pgconn.prepare(b"", statement.query)
        if result.status != ExecStatus.COMMAND_OK:
            raise NotReadyError(f"sql/{name}.sql does not prepare: {' '.join(result.get_error_message().split())}")


def unfit(connection: psycopg.Connection[Any], settings: Settings) -> str | None:
    """Say in one line why the service cannot work with the server of this connection. Return None if it can."""
    return _unfit(connection, _tables(settings))


def _unfit(connection: psycopg.Connection[Any], tables: list[str]) -> str | None:
    row = _readiness(connection, tables)
    if row["in_recovery"]:
        return "this server is a standby, which takes no writes; name the primary"
    if row["filtered"]:
        role, filtered = row["role"], ", ".join(row["filtered"])
        return (
            f"row level security hides rows from the role {role} in: {filtered}; "
            f"run as a superuser: alter role {role} bypassrls; or make {role} the owner of what is listed"
        )
    return None


def unable_to_add(connection: psycopg.Connection[Any], settings: Settings) -> str | None:
    """Say in one line why the service cannot add learners as NEW_LEARNERS says. Return None if it can, or need not."""
    if settings.new_learners == "refuse":
        return None
    row = statements.one(statements.run(connection, "learners/rights").fetchone())
    if settings.new_learners == "add" and not row["own_users"]:
        return (
            "NEW_LEARNERS: add would write the table users, which is the site's own; add-free gives free access to"
            " everybody in it, refuse leaves all to the site"
        )
    # A right is null where the table is missing: a migration is pending then, and that is said elsewhere.
    needs = {"users": row["own_users"] and row["may_add"] is False}
    needs["enrollments"] = settings.new_learners == "add-free" and row["may_enroll"] is False
    lacking = [table for table, lacks in needs.items() if lacks]
    if lacking:
        return (
            f"NEW_LEARNERS: the role {row['role']} may not add rows to: {', '.join(lacking)};"
            " was deploy/grants.sql run after make migrate?"
        )
    return None


def is_standby(connection: psycopg.Connection[Any], settings: Settings) -> bool:
    """Return whether the server of this connection is a standby."""
    return _readiness(connection, _tables(settings))["in_recovery"] is True


def _tables(settings: Settings) -> list[str]:
    return [*TABLES, *filter(None, [settings.auth_session_table])]


def _readiness(connection: psycopg.Connection[Any], tables: list[str]) -> DictRow:
    return statements.one(statements.run(connection, "readiness", tables=json.dumps(tables)).fetchone())


def known_migrations() -> list[str]:
    """Return the names of the migrations in migrations/, oldest first."""
    return [path.stem for path in sorted(MIGRATIONS.glob("*.sql")) if ".rollback" not in path.name]


def applied_migrations(connection: psycopg.Connection[Any]) -> dict[str, datetime]:
    """Return the names of the migrations that the database has, each with the time in UTC when it was applied."""
    try:
        return {row["migration_id"]: row["applied_at_utc"] for row in statements.run(connection, "applied_migrations")}
    except UndefinedTable:  # no migration was ever applied
        return {}
