"""The task make report: what a file of sql/reports/ returns, as a table for a terminal or as CSV."""

import csv
import io
import itertools
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import date
from typing import Any, NamedTuple, cast

import psycopg
from psycopg.rows import tuple_row

from app.database import statements
from app.database.statements import STATEMENTS
from app.tasks import TaskError, no_course
from app.tasks.terminal import COLUMNS, cut, width_of

NAMES = ("lessons", "modules", "courses", "learners", "days", "stuck", "completions")
FORMATS = ("table", "csv")

# Of the table, in columns of a terminal.
GAP = "  "
NUMBER_WIDTH = 9
TEXT_WIDTHS = {"user_id": 36, "day": 10, "first_day": 10, "last_day": 10, "kind": 6}

Row = Sequence[Any]


class Column(NamedTuple):
    """A column of the table: its place in a row, its head, its width in columns of a terminal."""

    place: int
    head: str
    width: int
    is_text: bool


def report(
    connection: psycopg.Connection[Any], name: str, course_id: str | None, since: str, output_format: str
) -> Generator[str]:
    """Yield the lines of a report with their ends, each as soon as its row comes from the server.

    `since` is a day, or empty. Raises TaskError if the report takes no such value, or if there is no such course.
    """
    if not name:
        raise TaskError(f"NAME is not given; the reports are {', '.join(NAMES)}")
    if name not in NAMES:
        raise TaskError(f"NAME={name} is no report; the reports are {', '.join(NAMES)}")
    if output_format not in FORMATS:
        raise TaskError(f"FORMAT={output_format} is none of {', '.join(FORMATS)}")
    statement = STATEMENTS[f"reports/{name}"]
    for variable, value, parameter in (("COURSE", course_id, "course_id"), ("SINCE", since, "since")):
        if value and parameter not in statement.parameters:
            raise TaskError(f"the report {name} takes no {variable}; leave it out")
    if name == "learners" and not course_id:
        raise TaskError("COURSE is not given; the report learners is about one course: COURSE=<id>")
    given = {"course_id": course_id or "", "since": _day(since)}
    # The settings below are of this transaction alone, also through a PgBouncer.
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        # The role of the service has timeouts that are meant for calls. A report may take longer, and whoever reads it
        # may read slowly.
        connection.execute("set local statement_timeout = 0")
        connection.execute("set local idle_in_transaction_session_timeout = 0")
        # An error is better than numbers without the rows that row level security hides.
        connection.execute("set local row_security = off")
        if course_id and not _is_course(connection, course_id):
            raise no_course(course_id)
        cursor = connection.cursor(row_factory=tuple_row)
        values = [given[parameter] for parameter in statement.parameters]
        # Memory does not grow with the number of rows. A cursor of the server would do this too, but PostgreSQL plans
        # no parallel workers for one. The stream holds the lock of the connection, so close it before the rollback.
        with closing(cast(Generator[Row], cursor.stream(statement.query, values))) as rows:
            first = next(rows, None)
            if first is None:  # then the stream does not tell the names of the columns
                cursor.execute(statement.query, values)
            names = [column.name for column in cursor.description or ()]
            columns = _table_columns(names, bool(course_id))
            if output_format == "csv":
                yield _csv_line(names)
            else:
                yield _table_line(columns, [column.head for column in columns])
            for row in rows if first is None else itertools.chain([first], rows):
                if output_format == "csv":
                    yield _csv_line(row)
                else:
                    yield _table_line(columns, [row[column.place] for column in columns])


def _day(since: str) -> str:
    try:
        if since:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", since, re.ASCII):
                raise ValueError(since)
            date.fromisoformat(since)
    except ValueError:
        raise TaskError(f"SINCE={since} is not a day, such as 2026-01-31") from None
    return since


def _is_course(connection: psycopg.Connection[Any], course_id: str) -> bool:
    row = statements.run(connection, "admin/is_course", course_id=course_id).fetchone()
    return bool(statements.one(row)["is_course"])


def _csv_line(row: Row) -> str:
    """Return a row as RFC 4180 says. Titles are as they are in the catalog."""
    line = io.StringIO()
    csv.writer(line).writerow(row)
    return line.getvalue()


def _table_columns(names: list[str], is_of_one_course: bool) -> list[Column]:
    """Return the columns of the table: titles stand for ids, and share the room that the other columns leave.

    The widths do not depend on the rows, because the first line is printed before the last row is known.
    """
    left_out = {"course_id", "module_id", "lesson_id", "id"} | ({"course_title"} if is_of_one_course else set())
    shown = [name for name in names if name not in left_out]
    plural = re.compile("(lesson|learner|completion)_count")
    heads = {name: re.sub("_(count|title)$", "", plural.sub(r"\1s", name)).replace("_", " ") for name in shown}
    widths = {
        name: TEXT_WIDTHS.get(name, max(NUMBER_WIDTH, len(heads[name]))) for name in shown if not name.endswith("title")
    }
    titles = len(shown) - len(widths)
    room = COLUMNS - sum(widths.values()) - len(GAP) * (len(shown) - 1)
    return [
        Column(
            names.index(name),
            heads[name],
            widths.get(name) or room // titles,
            name in TEXT_WIDTHS or name not in widths,
        )
        for name in shown
    ]


def _table_line(columns: list[Column], values: Row) -> str:
    cells = []
    for column, value in zip(columns, values, strict=True):
        text = "" if value is None else str(value)
        if column.is_text:
            text = cut(text, column.width)
        padding = " " * (column.width - width_of(text))
        cells.append(text + padding if column.is_text else padding + text)
    return GAP.join(cells).rstrip() + "\n"
