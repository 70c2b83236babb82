"""Reads and checks the catalog file (contract §7), and loads it as modules, lessons and prerequisites."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields
from psycopg import Connection

from app import checks
from app.database import statements
from app.tasks import TaskError

MAX_FILE_BYTES = 32 * 2**20
MAX_TITLE_CHARACTERS = 500
MAX_LINES = 20  # of faults, and of each kind of lessons in a report

Catalog = dict[str, list[dict[str, Any]]]


class CatalogError(TaskError):
    """The file is not a valid catalog. The text has a line for each fault, `place: fault`, up to MAX_LINES."""

    def __init__(self, faults: list[str]) -> None:
        more = [f"and {len(faults) - MAX_LINES} more"] if len(faults) > MAX_LINES else []
        super().__init__("\n".join(faults[:MAX_LINES] + more))


class _Id(fields.Field[str]):
    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not checks.UUID4.fullmatch(value):
            raise ValidationError(f"{_short(value)} is not a UUID version 4")
        return value.lower()


class _Title(fields.Field[str]):
    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError(f"{_short(value)} is not a string")
        if not value.strip():
            raise ValidationError("is empty")
        if len(value) > MAX_TITLE_CHARACTERS:
            raise ValidationError(f"is longer than {MAX_TITLE_CHARACTERS} characters")
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            raise ValidationError("holds a character that PostgreSQL cannot store (NUL, or half of a surrogate pair)")
        return value


class _Boolean(fields.Field[bool]):
    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError(f"{_short(value)} is neither true nor false")
        return value


class _Lesson(Schema):
    id = _Id(required=True)
    title = _Title(required=True)
    published = _Boolean(load_default=False)
    is_free = _Boolean(data_key="isFree", load_default=False)
    prerequisites = fields.List(_Id(), load_default=list)


class _Module(Schema):
    id = _Id(required=True)
    title = _Title(required=True)
    lessons = fields.List(fields.Nested(_Lesson), required=True)


class _Catalog(Schema):
    title = fields.String()
    modules = fields.List(fields.Nested(_Module), required=True)


def read_file(path: Path) -> Catalog:
    """Read a catalog file. Return its `modules`, `lessons` and `prerequisites` as rows for sql/admin/catalog_*.sql.

    There are four checks: the file can be read, it is JSON, it has the right form, its ids and prerequisites are right.
    Raises CatalogError with every fault that the first failed check finds.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CatalogError([f"the file cannot be read: {error.strerror}"]) from None
    if len(data) > MAX_FILE_BYTES:
        raise CatalogError([f"the file is larger than {MAX_FILE_BYTES // 2**20} MB"])
    try:
        loaded = _Catalog().load(_parse(data))
    except ValidationError as error:
        raise CatalogError(list(_flatten(error.messages))) from None
    _check_ids(loaded["modules"])
    catalog = _rows(loaded["modules"])
    _check_circles(catalog)
    return catalog


def _parse(data: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if repeated:
            raise CatalogError([f"the key {_short(repeated[0])} stands twice in {_short(dict(pairs))}"])
        return dict(pairs)

    def no_number(name: str) -> None:
        raise CatalogError([f"{name} is not JSON"])

    if b"\0" in data[:2] or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CatalogError(["not UTF-8 but UTF-16; save the file as UTF-8"])
    try:
        # Editors on Windows begin a file with a byte order mark.
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise CatalogError([f"byte {error.start}: not UTF-8"]) from None
    except json.JSONDecodeError as error:
        raise CatalogError([f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"]) from None
    except RecursionError:
        raise CatalogError(["not a catalog: nested too deeply"]) from None
    except ValueError:  # Python limits the number of digits
        raise CatalogError(["not a catalog: holds a number of thousands of digits"]) from None


def _flatten(messages: Any, place: str = "") -> Iterator[str]:
    """Turn marshmallow's nested messages into lines, `modules[3].lessons[2].id: …`, in the order of the file."""
    if isinstance(messages, dict):
        for key, inner in sorted(messages.items()):
            if key == "_schema":
                yield from _flatten(inner, place)
            else:
                # A key can hold any text, for instance a line break or half of a surrogate pair.
                name = key if isinstance(key, int) or re.fullmatch(r"\w+", key, re.ASCII) else _short(key)
                step = f"[{name}]" if isinstance(key, int) else f".{name}" if place else name
                yield from _flatten(inner, place + step)
    else:
        for message in messages:
            text = _WORDS.get(message, message)
            yield f"{place or 'the file'}: {text}"


# marshmallow's messages for what it checks itself, and ours instead.
_WORDS = {
    "Missing data for required field.": "is missing",
    "Unknown field.": "is not a key of the catalog file",
    "Field may not be null.": "is null",
    "Invalid input type.": "is not an object",
    "Invalid type.": "is not an object",
    "Not a valid list.": "is not a list",
    "Not a valid string.": "is not a string",
}


def _check_ids(modules: list[dict[str, Any]]) -> None:
    """Raise CatalogError for a repeated id, and for a prerequisite that is unknown, repeated or the lesson itself."""
    faults = []
    places: dict[str, str] = {}
    lessons = {lesson["id"] for module in modules for lesson in module["lessons"]}
    for m, module in enumerate(modules):
        for place, thing in [
            (f"modules[{m}].id", module),
            *((f"modules[{m}].lessons[{n}].id", lesson) for n, lesson in enumerate(module["lessons"])),
        ]:
            if thing["id"] in places:
                faults.append(f"{place}: {thing['id']} is also the id at {places[thing['id']]}")
            places.setdefault(thing["id"], place)
        for n, lesson in enumerate(module["lessons"]):
            for p, prerequisite in enumerate(lesson["prerequisites"]):
                place = f"modules[{m}].lessons[{n}].prerequisites[{p}]"
                if prerequisite == lesson["id"]:
                    faults.append(f"{place}: the lesson is its own prerequisite")
                elif prerequisite not in lessons:
                    faults.append(f"{place}: {prerequisite} is no lesson of this file")
                elif prerequisite in lesson["prerequisites"][:p]:
                    faults.append(f"{place}: {prerequisite} stands twice")
    if faults:
        raise CatalogError(faults)


def _rows(modules: list[dict[str, Any]]) -> Catalog:
    """Return the modules as rows. Positions begin with 1."""
    catalog: Catalog = {"modules": [], "lessons": [], "prerequisites": []}
    for m, module in enumerate(modules, 1):
        catalog["modules"].append({"id": module["id"], "title": module["title"], "position": m})
        for n, lesson in enumerate(module["lessons"], 1):
            prerequisites = lesson.pop("prerequisites")
            catalog["lessons"].append({**lesson, "module_id": module["id"], "position": n})
            catalog["prerequisites"] += [{"lesson_id": lesson["id"], "prerequisite_id": id} for id in prerequisites]
    return catalog


def _graph(catalog: Catalog) -> dict[str, list[str]]:
    graph: dict[str, list[str]] = {lesson["id"]: [] for lesson in catalog["lessons"]}
    for row in catalog["prerequisites"]:
        graph[row["lesson_id"]].append(row["prerequisite_id"])
    return graph


def _check_circles(catalog: Catalog) -> None:
    """Raise CatalogError if prerequisites form a circle. The text names the lessons of each circle."""
    graph = _graph(catalog)
    titles = {lesson["id"]: lesson["title"] for lesson in catalog["lessons"]}
    faults = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            # graphlib lists a prerequisite before the lesson that needs it.
            circle = error.args[1][::-1]
            names = [f"{_quoted(titles[id])} ({id})" for id in circle]
            more = len(names) - MAX_LINES
            if more > 0:
                names = [*names[: MAX_LINES - 1], f"… {more} more …", names[-1]]
            faults.append(f"prerequisites go in a circle: {' needs '.join(names)}")
            for id in circle:
                graph.pop(id, None)
            graph = {id: [need for need in needs if need in graph] for id, needs in graph.items()}
    if faults:
        raise CatalogError(faults)


def locked_for_good(catalog: Catalog) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the free lessons that nobody with free access can ever unlock, each with the prerequisite that locks it.

    Such a prerequisite is published (an unpublished one never locks), and it is either not free or locked for good
    itself.
    """
    lessons = {lesson["id"]: lesson for lesson in catalog["lessons"]}
    graph = _graph(catalog)
    kept: dict[str, str] = {}
    for id in TopologicalSorter(graph).static_order():
        for need in graph[id]:
            if lessons[need]["published"] and (not lessons[need]["is_free"] or need in kept):
                kept.setdefault(id, need)
    return [
        (lesson, lessons[kept[id]])
        for id, lesson in lessons.items()
        if id in kept and lesson["published"] and lesson["is_free"]
    ]


def load(connection: Connection[Any], catalog: Catalog, dry_run: bool) -> list[str]:
    """Make the catalog in the database what `catalog` says, in one transaction. Return the lines of a report.

    Only prerequisites of lessons in `catalog` are deleted. With `dry_run`, nothing is written.
    """
    text = json.dumps(catalog)
    with connection.transaction():
        # Two loads run one after the other. The statements after the lock see what the earlier load wrote.
        statements.run(connection, "admin/catalog_lock")
        changes = statements.run(connection, "admin/catalog_changes", catalog=text).fetchall()
        prerequisites = statements.one(
            statements.run(connection, "admin/catalog_prerequisite_changes", catalog=text).fetchone()
        )
        if not dry_run:
            for name in ("modules", "lessons", "unpublish", "prerequisites"):
                statements.run(connection, f"admin/catalog_{name}", catalog=text)
    return list(_report(catalog, changes, prerequisites))


def _report(catalog: Catalog, changes: list[dict[str, Any]], prerequisites: dict[str, Any]) -> Iterator[str]:
    for kind in ("module", "lesson"):
        rows = [row for row in changes if row["kind"] == kind]
        counts = {what: sum(row[what] for row in rows) for what in ("added", "changed", "moved", "unpublished")}
        wanted = list(counts) if kind == "lesson" else ["added", "changed"]
        words = ", ".join(f"{counts[what]} {what}" for what in wanted)
        yield f"{kind}s: {len(catalog[kind + 's'])} in the file; {words}"
    yield f"prerequisites: {prerequisites['added']} added, {prerequisites['removed']} removed"
    for what in ("moved", "unpublished"):
        rows = [row for row in changes if row[what]]
        if rows:
            completions = sum(row["completions"] for row in rows)
            yield f"{what}: {len(rows)} lessons with {completions} completions, all kept"
            yield from _first(f"  {_quoted(row['title'])}: {row['completions']} completions" for row in rows)
    kept = locked_for_good(catalog)
    if kept:
        yield f"warning: {len(kept)} free lessons stay locked for good for learners with free access alone"
        yield from _first(f"  {_quoted(lesson['title'])} needs {_quoted(need['title'])}" for lesson, need in kept)


def _first(lines: Iterator[str]) -> Iterator[str]:
    every = list(lines)
    yield from every[:MAX_LINES]
    if len(every) > MAX_LINES:
        yield f"  and {len(every) - MAX_LINES} more"


def _quoted(title: str) -> str:
    return json.dumps(title, ensure_ascii=False)  # a title with a line break stays on one line


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:  # here the stack is deeper than when the value was parsed
        return "a value nested too deeply"
    return text if len(text) <= 60 else f"{text[:57]}…"
