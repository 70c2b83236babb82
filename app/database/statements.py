"""The statements of sql/: each file is one, and a statement is named by its path there, without `.sql`."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import Cursor
from psycopg.rows import DictRow

StatementCall = tuple[str, dict[str, str | None]]  # a statement's name, and its parameters
Rows = dict[str, DictRow | None]  # the first row of each statement, by its name
# A further trip of a transaction: from all rows so far it makes the statements of the trip, and the step after them,
# None if these are the last. If a step returns None, the transaction is rolled back.
Step = Callable[[Rows], "tuple[list[StatementCall], Step | None] | None"]

PIPELINED_LOCKS = 1000  # their results are in memory at once

SQL = Path(__file__).parent.parent.parent / "sql"


class Statement(NamedTuple):
    """One file of sql/ as the server takes it: psql's variables are numbered `$1`, `$2`, … as they first appear."""

    name: str
    query: bytes
    parameters: tuple[str, ...]


def load(path: Path, session_table: str = ":session_table") -> Statement:
    """Read one file of sql/. A variable that psql quotes as a literal, `:'name'`, becomes a parameter.

    `session_table` replaces the one variable that is a name. It must be checked and quoted already.

    The name of the file goes in front as a comment: pg_stat_statements, auto_explain and the log then tell which file
    a statement is. The comment is on the first line, so that the line number in an error is that of the file.
    """
    parameters: list[str] = []

    def number(variable: re.Match[str]) -> str:
        if variable[1] not in parameters:
            parameters.append(variable[1])
        return f"${parameters.index(variable[1]) + 1}"

    query = re.sub(r":'(\w+)'", number, path.read_text("utf-8").replace(":session_table", session_table))
    file = path.relative_to(SQL).as_posix() if path.is_relative_to(SQL) else path.name
    return Statement(file.removesuffix(".sql"), f"/* {file} */ {query}".encode(), tuple(parameters))


# The make targets run the statements in these folders. The service never does.
TASK_FOLDERS = ("admin/", "reports/")
STATEMENTS = {statement.name: statement for statement in map(load, sorted(SQL.rglob("*.sql")))}


def session_statement(session_table: str) -> Statement:
    """Return the statement that looks up a session in the site's table, whose name is checked and quoted already."""
    return load(SQL / "session.sql", session_table)


def _tables() -> list[str]:
    texts = (statement.query.decode() for name, statement in STATEMENTS.items() if not name.startswith(TASK_FOLDERS))
    naming = re.compile(r"\b(?:from|join|into|update)\s+(\w+)\b(?!\s*\()")
    return sorted({table for text in texts for table in naming.findall(re.sub("--.*", "", text))})


# The tables that the service's statements name. CTEs and some columns are among them: the database has no such table,
# and readiness.sql passes over them.
TABLES = _tables()


def run(connection: psycopg.Connection[Any], name: str | Statement, /, **parameters: str | None) -> Cursor[Any]:
    """Execute a statement, or the statement of this name, on a connection whose cursors are RawCursor.

    Parameters are text, or None for null; the statement casts each.
    """
    statement = STATEMENTS[name] if isinstance(name, str) else name
    return connection.execute(statement.query, [parameters[key] for key in statement.parameters])


def lock(connection: psycopg.Connection[Any], user_ids: list[str]) -> list[str]:
    """Lock learners until the transaction ends, a thousand in a trip. Return the ids of those who exist.

    Callers that sort the ids never wait for each other.
    """
    locked: list[str] = []
    for start in range(0, len(user_ids), PIPELINED_LOCKS):
        with connection.pipeline():
            cursors = [run(connection, "lock", user_id=id) for id in user_ids[start : start + PIPELINED_LOCKS]]
        locked += [str(row["id"]) for cursor in cursors for row in cursor]
    return locked


def array(values: Iterable[str | None]) -> str:
    """Return texts as the text of an array of PostgreSQL, and None as null.

    The texts have no quotation mark and no backslash: they are UUIDs, times, and settings that were checked for both.
    """
    return "{" + ",".join("null" if value is None else f'"{value}"' for value in values) + "}"


def one(row: DictRow | None) -> DictRow:
    """Return the row of a statement that always returns one. Raise LookupError where it returned none."""
    if row is None:
        raise LookupError("a statement that returns one row returned none")
    return row
