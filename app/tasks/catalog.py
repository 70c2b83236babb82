"""Reads and checks the catalog file (contract §7), and loads it as courses, modules, lessons and prerequisites."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from psycopg import Connection

from app import formats
from app.database import statements
from app.tasks import TaskError, quoted

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
        if not isinstance(value, str) or not formats.UUID4.fullmatch(value):
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


class _Course(Schema):
    id = _Id(required=True)
    title = _Title(required=True)
    modules = fields.List(fields.Nested(_Module), required=True)


class _Catalog(Schema):
    title = fields.String()
    courses = fields.List(fields.Nested(_Course))
    modules = fields.List(fields.Nested(_Module))

    @validates_schema
    def _has_a_list(self, data: dict[str, Any], **kwargs: Any) -> None:
        if not {"courses", "modules"} & data.keys():
            raise ValidationError("has neither courses nor modules")


def read_file(path: Path, partial: bool = False) -> Catalog:
    """Read a catalog file. Return its `courses`, `modules`, `lessons` and `prerequisites` as rows for sql/admin/.

    There are four checks: the file can be read, it is JSON, it has the right form, its ids and prerequisites are right.
    With `partial`, a prerequisite may also be in the database, so load() makes the check of prerequisites.
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
    # In catalog order, the modules without a course come first.
    modules = [(None, f"modules[{m}]", m, module) for m, module in enumerate(loaded.get("modules", []))] + [
        (course["id"], f"courses[{c}].modules[{m}]", m, module)
        for c, course in enumerate(loaded.get("courses", []))
        for m, module in enumerate(course["modules"])
    ]
    courses = loaded.get("courses", [])
    faults = _id_faults(courses, modules)
    catalog = _rows(courses, modules)
    if not partial:
        faults += _prerequisite_faults(catalog, {})
    if faults:
        raise CatalogError(faults)
    if not partial:
        _check_circles(catalog, {})
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


# The id of its course or None, its place in the file, its index there, and the module itself.
_PlacedModule = tuple[str | None, str, int, dict[str, Any]]


def _id_faults(courses: list[dict[str, Any]], modules: list[_PlacedModule]) -> list[str]:
    """Return a fault for each repeated id. A course and a module may have one id: many a course is one module."""
    faults: list[str] = []

    def check(placed: list[tuple[str, str]]) -> None:
        places: dict[str, str] = {}
        for place, id in placed:
            if id in places:
                faults.append(f"{place}: {id} is also the id at {places[id]}")
            places.setdefault(id, place)

    check([(f"courses[{c}].id", course["id"]) for c, course in enumerate(courses)])
    ids = []
    for _, place, _, module in modules:
        ids.append((f"{place}.id", module["id"]))
        ids += [(f"{place}.lessons[{n}].id", lesson["id"]) for n, lesson in enumerate(module["lessons"])]
    check(ids)
    return faults


def _rows(courses: list[dict[str, Any]], modules: list[_PlacedModule]) -> Catalog:
    """Return the courses and modules as rows. Positions begin with 1. A prerequisite keeps its place in the file."""
    catalog: Catalog = {"courses": [], "modules": [], "lessons": [], "prerequisites": []}
    for c, course in enumerate(courses, 1):
        catalog["courses"].append({"id": course["id"], "title": course["title"], "position": c})
    for course_id, place, m, module in modules:
        catalog["modules"].append(
            {"id": module["id"], "course_id": course_id, "title": module["title"], "position": m + 1}
        )
        for n, lesson in enumerate(module["lessons"]):
            prerequisites = lesson.pop("prerequisites")
            catalog["lessons"].append({**lesson, "module_id": module["id"], "position": n + 1})
            catalog["prerequisites"] += [
                {"lesson_id": lesson["id"], "prerequisite_id": id, "place": f"{place}.lessons[{n}].prerequisites[{p}]"}
                for p, id in enumerate(prerequisites)
            ]
    return catalog


# The lessons of the database that a file does not have, by id: rows of sql/admin/catalog_outside.sql.
Outside = dict[str, dict[str, Any]]


def _prerequisite_faults(catalog: Catalog, outside: Outside, elsewhere: str = "") -> list[str]:
    """Return a fault for each prerequisite that is unknown, repeated or the lesson itself.

    `outside` has further lessons that may be prerequisites, and `elsewhere` says where these are.
    """
    faults = []
    lessons = {lesson["id"] for lesson in catalog["lessons"]}
    pairs = set()
    for row in catalog["prerequisites"]:
        id, pair = row["prerequisite_id"], (row["lesson_id"], row["prerequisite_id"])
        if id == row["lesson_id"]:
            faults.append(f"{row['place']}: the lesson is its own prerequisite")
        elif id not in lessons and id not in outside:
            faults.append(f"{row['place']}: {id} is no lesson of this file{elsewhere}")
        elif pair in pairs:
            faults.append(f"{row['place']}: {id} stands twice")
        pairs.add(pair)
    return faults


def _graph(catalog: Catalog, outside: Outside) -> dict[str, list[str]]:
    """Return the prerequisites of each lesson, of those in the file and of those outside."""
    graph: dict[str, list[str]] = {lesson["id"]: [] for lesson in catalog["lessons"]}
    for row in catalog["prerequisites"]:
        graph[row["lesson_id"]].append(row["prerequisite_id"])
    return graph | {id: row["prerequisites"] for id, row in outside.items()}


def _check_circles(catalog: Catalog, outside: Outside) -> None:
    """Raise CatalogError if prerequisites form a circle. The text names the lessons of each circle.

    Of the lessons outside, only those count that the lessons of the file need. A circle elsewhere in the database is
    no fault of this file.
    """
    whole = _graph(catalog, outside)
    titles = {lesson["id"]: lesson["title"] for lesson in [*catalog["lessons"], *outside.values()]}
    needed: set[str] = set()
    waiting = [lesson["id"] for lesson in catalog["lessons"]]
    while waiting:
        id = waiting.pop()
        if id not in needed:
            needed.add(id)
            waiting += whole[id]
    graph = {id: needs for id, needs in whole.items() if id in needed}
    faults = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            break
        except CycleError as error:
            # graphlib lists a prerequisite before the lesson that needs it.
            circle = error.args[1][::-1]
            names = [f"{quoted(titles[id])} ({id})" for id in circle]
            more = len(names) - MAX_LINES
            if more > 0:
                names = [*names[: MAX_LINES - 1], f"… {more} more …", names[-1]]
            faults.append(f"prerequisites go in a circle: {' needs '.join(names)}")
            for id in circle:
                graph.pop(id, None)
            graph = {id: [need for need in needs if need in graph] for id, needs in graph.items()}
    if faults:
        raise CatalogError(faults)


def locked_for_good(
    catalog: Catalog, outside: Outside, part: Callable[[dict[str, Any]], Hashable | None]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the lessons that nobody with access to one part alone can ever unlock, each with what locks it.

    `part` says in which part a lesson is; None: in no part that somebody may have alone. What locks a lesson is a
    published prerequisite (an unpublished one never locks) that is in another part, or is locked for good itself.
    `outside` has the lessons that are not in `catalog`, as they are after the load.
    """
    courses = {module["id"]: module["course_id"] for module in catalog["modules"]}
    lessons = {lesson["id"]: lesson | {"course_id": courses[lesson["module_id"]]} for lesson in catalog["lessons"]}
    lessons |= outside
    parts = {id: part(lesson) for id, lesson in lessons.items() if lesson["published"]}
    # Without the prerequisites that never lock.
    graph = {id: [need for need in needs if need in parts] for id, needs in _graph(catalog, outside).items()}
    dependents: dict[str, list[str]] = {id: [] for id in lessons}
    for id, needs in graph.items():
        for need in needs:
            dependents[need].append(id)
    # Not in topological order: outside of the file, prerequisites may form a circle.
    locked: set[str] = set()
    waiting = [
        id
        for id, of_lesson in parts.items()
        if of_lesson is not None and any(parts[need] != of_lesson for need in graph[id])
    ]
    while waiting:
        id = waiting.pop()
        if id not in locked:
            locked.add(id)
            waiting += [other for other in dependents[id] if parts.get(other) == parts[id]]
    return [
        (lesson, next(lessons[need] for need in graph[id] if parts[need] != parts[id] or need in locked))
        for id, lesson in lessons.items()
        if id in locked
    ]


def load(connection: Connection[Any], catalog: Catalog, dry_run: bool, partial: bool = False) -> list[str]:
    """Make the catalog in the database what `catalog` says, in one transaction. Return the lines of a report.

    With `partial`, everything outside of the courses and modules in `catalog` is left as it is. Otherwise every lesson
    that is not in `catalog` is unpublished. Only prerequisites of lessons in `catalog` are deleted. With `dry_run`,
    nothing is written. With `partial`, raises CatalogError for faults in the prerequisites.
    """
    with connection.transaction():
        # Two loads run one after the other. The statements after the lock see what the earlier load wrote.
        statements.run(connection, "admin/catalog_lock")
        text = json.dumps(catalog)
        outside = {row["id"]: row for row in statements.run(connection, "admin/catalog_outside", catalog=text)}
        left_alone = 0
        if partial:
            faults = _prerequisite_faults(catalog, outside, " or of the database")
            if faults:
                raise CatalogError(faults)
            _check_circles(catalog, outside)
            _set_positions(catalog, statements.run(connection, "admin/catalog_positions", catalog=text))
            left_alone = sum(not row["named"] for row in outside.values())
        left_out = [row for row in outside.values() if row["published"] and (row["named"] or not partial)]
        text = json.dumps(catalog | {"left_out": [row["id"] for row in left_out]})
        changes = statements.run(connection, "admin/catalog_changes", catalog=text).fetchall()
        prerequisites = statements.one(
            statements.run(connection, "admin/catalog_prerequisite_changes", catalog=text).fetchone()
        )
        if not dry_run:
            for name in ("courses", "modules", "lessons", "unpublish", "prerequisites"):
                statements.run(connection, f"admin/catalog_{name}", catalog=text)
    for row in left_out:
        row["published"] = False
    return list(_report(catalog, outside, changes, prerequisites, left_alone))


def _set_positions(catalog: Catalog, rows: Iterable[dict[str, Any]]) -> None:
    """Give courses and modules the positions that sql/admin/catalog_positions.sql found for them."""
    positions = {(row["kind"], row["id"]): row["position"] for row in rows}
    for kind in ("course", "module"):
        for row in catalog[f"{kind}s"]:
            row["position"] = positions.get((kind, row["id"]), row["position"])


def _report(
    catalog: Catalog, outside: Outside, changes: list[dict[str, Any]], prerequisites: dict[str, Any], left_alone: int
) -> Iterator[str]:
    modules_moved = any(row["moved"] for row in changes if row["kind"] == "module")
    for kind, wanted in (
        ("course", ["added", "changed"]),
        # A site without courses reads nothing about them.
        ("module", ["added", "changed", "moved"] if catalog["courses"] or modules_moved else ["added", "changed"]),
        ("lesson", ["added", "changed", "moved", "unpublished"]),
    ):
        if kind != "course" or catalog["courses"]:
            rows = [row for row in changes if row["kind"] == kind]
            words = ", ".join(f"{sum(row[what] for row in rows)} {what}" for what in wanted)
            yield f"{kind}s: {len(catalog[kind + 's'])} in the file; {words}"
    yield f"prerequisites: {prerequisites['added']} added, {prerequisites['removed']} removed"
    if left_alone:
        yield f"left as they are: {left_alone} lessons outside of the courses and modules in the file"
    for kind, what in (("module", "moved"), ("lesson", "moved"), ("lesson", "unpublished")):
        rows = [row for row in changes if row["kind"] == kind and row[what]]
        if rows:
            completions = sum(row["completions"] for row in rows)
            yield f"{what}: {len(rows)} {kind}s with {completions} completions, all kept"
            yield from _first(f"  {quoted(row['title'])}: {row['completions']} completions" for row in rows)
    for words, part in (
        ("free lessons stay locked for good for learners with free access alone", lambda row: row["is_free"] or None),
        (
            "lessons stay locked for good for a learner who has only the course of the lesson",
            lambda row: row["course_id"],
        ),
    ):
        locked = locked_for_good(catalog, outside, part)
        if locked:
            yield f"warning: {len(locked)} {words}"
            yield from _first(f"  {quoted(lesson['title'])} needs {quoted(need['title'])}" for lesson, need in locked)


def _first(lines: Iterator[str]) -> Iterator[str]:
    every = list(lines)
    yield from every[:MAX_LINES]
    if len(every) > MAX_LINES:
        yield f"  and {len(every) - MAX_LINES} more"


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:  # here the stack is deeper than when the value was parsed
        return "a value nested too deeply"
    return text if len(text) <= 60 else f"{text[:57]}…"
