"""Progress as CSV (contract §8): make import-progress and make export-progress.

Both stream, so the memory that they take does not grow with the number of rows. That of an import grows with the number
of learners.
"""

import csv
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO
from uuid import UUID

import psycopg
from psycopg import IsolationLevel

from app import formats
from app.database import statements
from app.database.statements import STATEMENTS, array, one
from app.tasks import TaskError, completions, quoted
from app.user_ids import MAX_CHARACTERS, learner_id

MAX_FAULTS = 20  # that are named
MAX_LINE_CHARACTERS = 2**20
CACHED_IDS = 2**16

# Turns what a file has into the id of a learner or of a lesson. Raises ValueError, whose text never has the value,
# because that may be an e-mail address.
Convert = Callable[[str], str]


class Columns(NamedTuple):
    """The names of the three columns in the header of an imported file."""

    user: str
    lesson: str
    time: str


class _FileFaultError(Exception):
    """A file as a whole cannot be used, whatever its rows are. The text says why."""


class _Faults:
    """The faults of a file: the number, and the first of them with their lines."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, line: int, text: str) -> None:
        self.count += 1
        if len(self._first) < MAX_FAULTS or line < self._first[-1][0]:
            self._first = sorted([*self._first, (line, text)])[:MAX_FAULTS]

    def lines(self) -> list[str]:
        more = self.count - len(self._first)
        return [f"line {line}: {text}" for line, text in self._first] + ([f"and {more} more"] if more else [])


def learner(namespace: UUID | None) -> Convert:
    """Return the function that turns a site's user id into the id of the learner (contract §5)."""

    def convert(text: str) -> str:
        id = learner_id(text, namespace)
        if id is None and namespace:
            raise ValueError(f"not a text of 1 to {MAX_CHARACTERS} characters")
        if id is None:
            raise ValueError("not a UUID, as 8-4-4-4-12 hexadecimal digits")
        return id

    return convert


def lesson(text: str) -> str:
    """Return the id of a lesson in lower case. Raise ValueError if it is not a UUID version 4."""
    if not formats.UUID4.fullmatch(text):
        raise ValueError("not a UUID version 4, as 8-4-4-4-12 hexadecimal digits")
    return text.lower()


def mapping(path: Path, variable: str, convert: Convert) -> Convert:
    """Read a file with a header and, in each line after it, their id and ours. Return the function from theirs to ours.

    `variable` is how the person who runs the task gives the file. `convert` checks our id. Raises TaskError with the
    faults of the file.
    """
    ours: dict[str, str] = {}
    faults = _Faults()
    with _records(path, f"{variable}={path}") as (header, records):
        if len(header) != 2:
            raise _FileFaultError(f"line 1: {len(header)} columns, and not two: their id and ours")
        for line, record in records:
            try:
                _check(record, 2)
                foreign, own = record[0], convert(record[1])
                if not foreign:
                    raise ValueError("their id is empty")
                if ours.setdefault(foreign, own) != own:
                    raise ValueError("their id is that of an earlier line, and ours is another")
            except ValueError as error:
                faults.add(line, str(error))
    if faults.count:
        raise TaskError("\n".join([f"{variable}={path} is not read:", *faults.lines()]))
    if not ours:
        raise TaskError(f"{variable}={path}: nothing is below the header")

    def find(text: str) -> str:
        if text not in ours:
            raise ValueError(f"not in {variable}={path}")
        return ours[text]

    return find


def import_progress(
    connection: psycopg.Connection[Any],
    path: Path,
    columns: Columns,
    learner: Convert,
    lesson: Convert,
    skip: bool,
    dry_run: bool,
) -> list[str]:
    """Store the completions of a CSV file, and those of modules and courses that follow. Return the lines of a report.

    It is one transaction. Rows with faults raise TaskError; with `skip` they are left out, and the report names them.
    With `dry_run`, nothing is locked, and nothing is written.
    """
    # The level that a write needs, as every connection of the service has it.
    connection.isolation_level = IsolationLevel.READ_COMMITTED
    faults = _Faults()
    with connection.transaction():
        statements.run(connection, "admin/import_begin")
        with _records(path, str(path)) as (header, records):
            rows = _rows(records, header, columns, learner, lesson, faults)
            copied_count = _copy(connection, rows)
        malformed_count = faults.count
        user_ids = [str(row["user_id"]) for row in statements.run(connection, "admin/import_learners")]
        known = statements.run(connection, "admin/known_learners", user_ids=array(user_ids))
        known_ids = {str(row["id"]) for row in known}
        _take_out(connection, set(user_ids) - known_ids, faults)
        _refuse(path, faults, skip)
        counts = one(statements.run(connection, "admin/import_counts", user_ids=array(known_ids)).fetchone())
        new, modules, courses = counts["new_count"], 0, 0
        if not dry_run:
            # The locks last until the end of the transaction, so the checks come before.
            locked_ids = statements.lock(connection, sorted(known_ids))
            # Somebody may have deleted a learner since the check.
            if deleted := known_ids - set(locked_ids):
                _take_out(connection, deleted, faults)
                _refuse(path, faults, skip)
                counts = one(statements.run(connection, "admin/import_counts", user_ids=array(locked_ids)).fetchone())
            new = statements.run(connection, "admin/import_progress").rowcount
            modules, courses = completions.write(connection, locked_ids)
    total = counts["completion_count"]
    repeated = copied_count + malformed_count - faults.count - total
    return [
        f"rows: {copied_count + malformed_count} in the file; {new} new, {total - new} stored already,"
        f" {repeated} repeated, {faults.count} skipped",
        *(f"  {line}" for line in faults.lines()),
        *([] if dry_run else [completions.written(modules, courses)]),
    ]


def _take_out(connection: psycopg.Connection[Any], missing_user_ids: set[str], faults: _Faults) -> None:
    """Take the rows whose learner or lesson does not exist out of the temporary table. Add them to the faults."""
    missing = array(missing_user_ids)
    row_count = listed_count = 0
    for row in statements.run(connection, "admin/import_faults", missing_user_ids=missing, limit=str(MAX_FAULTS)):
        kinds = {"learner": row["user_id"], "lesson": row["lesson_id"]}
        faults.add(row["line"], " and ".join(f"there is no {kind} {id}" for kind, id in kinds.items() if id))
        row_count, listed_count = row["fault_count"], listed_count + 1
    faults.count += row_count - listed_count


def _refuse(path: Path, faults: _Faults, skip: bool) -> None:
    if faults.count and not skip:
        raise TaskError("\n".join([f"{path} is not imported:", *faults.lines()]))


def export_progress(connection: psycopg.Connection[Any], path: Path) -> int:
    """Write every completion into a CSV file that import_progress reads. Return the number of completions.

    The file is written whole, or it stays as it was. Only its owner may read it. `-` is standard output.
    """
    try:
        if str(path) == "-":
            return _export(connection, sys.stdout.buffer)
        if path.exists() and not path.is_file():
            raise TaskError(f"{path} is not a file that can be replaced; FILE=- writes to standard output")
        target = path.resolve()  # a symbolic link stays one
        handle, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                count = _export(connection, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise TaskError(f"{path} cannot be written: {error.strerror}") from None
    return count


def _export(connection: psycopg.Connection[Any], file: BinaryIO) -> int:
    query = STATEMENTS["admin/export_progress"].query.rstrip().removesuffix(b";")
    cursor = connection.cursor()
    with cursor.copy(b"copy (" + query + b"\n) to stdout with (format csv, header)") as copy:
        file.writelines(copy)
    return cursor.rowcount


def _copy(connection: psycopg.Connection[Any], rows: Iterable[str]) -> int:
    """Copy rows, in PostgreSQL's text format, into the temporary table. Return their number."""
    cursor = connection.cursor()
    with cursor.copy("copy imported (line, user_id, lesson_id, completed_at) from stdin") as copy:
        for row in rows:
            copy.write(row)
    return cursor.rowcount


def _rows(
    records: Iterable[tuple[int, list[str]]],
    header: list[str],
    columns: Columns,
    learner: Convert,
    lesson: Convert,
    faults: _Faults,
) -> Iterator[str]:
    """Yield the rows for _copy. Add a fault for each record that is none.

    Raises _FileFaultError if the header does not have a column.
    """
    places = []
    for name, variable in zip(columns, ("USER_COLUMN", "LESSON_COLUMN", "TIME_COLUMN"), strict=True):
        if header.count(name) != 1:
            found = "two columns are" if name in header else f"none of its {len(header)} columns is"
            raise _FileFaultError(f"line 1: {found} named {quoted(name)}; {variable}= names the column")
        places.append(header.index(name))
    user_place, lesson_place, time_place = places
    # In most files, the same learners and lessons come again and again.
    learner, lesson = lru_cache(CACHED_IDS)(learner), lru_cache(CACHED_IDS)(lesson)
    for line, record in records:
        column = ""
        try:
            _check(record, len(header))
            column = columns.user
            user_id = learner(record[user_place])
            column = columns.lesson
            lesson_id = lesson(record[lesson_place])
            column = columns.time
            completed_at = formats.completed_at(record[time_place]) if record[time_place] else r"\N"
        except ValueError as error:
            faults.add(line, f"{column}: {error}" if column else str(error))
        else:
            yield f"{line}\t{user_id}\t{lesson_id}\t{completed_at}\n"


@contextmanager
def _records(path: Path, name: str) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """Open a CSV file. Yield its header, and its other records, each with the line where it begins, from 1.

    Raises TaskError, which calls the file `name`, if the file as a whole cannot be used, also while its records are
    read. After a wrong quotation mark, nobody knows where the next record begins.
    """
    try:
        # A byte order mark is skipped. Bytes that are not UTF-8 become halves of surrogate pairs, which _check finds.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            records = _parsed(file)
            _, header = next(records, (1, []))
            if not header:
                raise _FileFaultError("the file is empty; the first line of a CSV file names its columns")
            if not _is_text(header):
                raise _FileFaultError("line 1: not UTF-8; save the file as UTF-8")
            _check_separator(header)
            yield header, records
    except OSError as error:
        raise TaskError(f"{name} cannot be read: {error.strerror}") from None
    except _FileFaultError as error:
        raise TaskError(f"{name}: {error}") from None


def _parsed(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line where it begins. Blank lines are left out."""
    reader = csv.reader(_lines(file), strict=True)
    begin = 1
    try:
        for record in reader:
            if record:
                yield begin, record
            # A record with a line break between quotation marks has several lines.
            begin = reader.line_num + 1
    except csv.Error as error:
        raise _FileFaultError(f"line {begin}: not CSV from here on: {error}") from None


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines. A line has a limit, because the memory that a task takes must have one."""
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise csv.Error(f"a line is longer than {MAX_LINE_CHARACTERS} characters")
        yield line


def _check_separator(header: list[str]) -> None:
    """Raise _FileFaultError if something else than commas seems to separate the columns of a header."""
    for sign, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sign in header[0]:
            raise _FileFaultError(
                f"line 1: commas must separate the columns, and not {name}; save the file with commas"
            )


def _check(record: list[str], width: int) -> None:
    """Raise ValueError if a record has another number of columns than the header, or is not UTF-8."""
    if len(record) != width:
        raise ValueError(f"{len(record)} columns, and the header has {width}")
    if not _is_text(record):
        raise ValueError("not UTF-8")


def _is_text(record: list[str]) -> bool:
    text = "".join(record)
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
