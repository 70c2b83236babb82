"""Catalog files drawn at random, whole and with PARTIAL=1, on tables that others filled: what each load makes of them.

A second implementation of contract §7, on plain dicts, says which files are refused and what the tables hold after.
"""

import json
import random
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from app.tasks import catalog
from tests.conftest import DEEP
from tests.test_catalog_courses import rows
from tests.world import LEARNER, add_user, uuid4

COURSES = [uuid4(0xC0 + n) for n in range(3)]
MODULES = [*COURSES[:1], *(uuid4(0xA0 + n) for n in range(5))]
LESSONS = [uuid4(n) for n in range(10, 20)]


def reached(needs: set[tuple[str, str]], lesson: str) -> set[str]:
    """What a lesson needs, directly and through others."""
    found: set[str] = set()
    while more := {need for one, need in needs if one in found | {lesson}} - found:
        found |= more
    return found


class Tables:
    """The catalog: rows by id, as tuples of the columns below, and pairs of a lesson and its prerequisite."""

    def __init__(self) -> None:
        self.courses: dict[str, tuple[str, int]] = {}  # title, position
        self.modules: dict[str, tuple[str | None, str, int]] = {}  # course, title, position
        self.lessons: dict[str, tuple[str, str, int, bool, bool]] = {}  # module, title, position, published, is_free
        self.needs: set[tuple[str, str]] = set()

    def load(self, document: dict[str, Any], partial: bool) -> bool:
        """Load a file, and tell whether it was loaded."""
        courses = document.get("courses", [])
        placed = [(None, n, module) for n, module in enumerate(document.get("modules", []), 1)]
        placed += [(course["id"], n, module) for course in courses for n, module in enumerate(course["modules"], 1)]
        inside = {lesson["id"] for _, _, module in placed for lesson in module["lessons"]}
        given = {
            (lesson["id"], need)
            for _, _, module in placed
            for lesson in module["lessons"]
            for need in lesson.get("prerequisites", [])
        }
        needs = given | {pair for pair in self.needs if pair[0] not in inside}
        if any(need not in inside and not (partial and need in self.lessons) for _, need in given):
            return False
        needed = inside.union(*(reached(needs, lesson) for lesson in inside))
        if any(lesson in reached(needs, lesson) for lesson in needed):
            return False

        named_modules = {module["id"] for _, _, module in placed}
        named_courses = {course["id"] for course in courses}
        for id, (module_id, title, position, published, is_free) in self.lessons.items():
            named = module_id in named_modules or self.modules[module_id][0] in named_courses
            kept = id in inside or (partial and not named)
            self.lessons[id] = module_id, title, position, published and kept, is_free
        last_course = max((position for _, position in self.courses.values()), default=0)
        last_module = max((position for course, _, position in self.modules.values() if course is None), default=0)
        for n, course in enumerate(courses, 1):
            position = n
            if partial and course["id"] in self.courses:
                position = self.courses[course["id"]][1]
            elif partial:
                last_course += 1
                position = last_course
            self.courses[course["id"]] = course["title"], position
        for course_id, n, module in placed:
            position, before = n, self.modules.get(module["id"])
            if partial and course_id is None and before and before[0] is None:
                position = before[2]
            elif partial and course_id is None:
                last_module += 1
                position = last_module
            self.modules[module["id"]] = course_id, module["title"], position
            for m, lesson in enumerate(module["lessons"], 1):
                published, is_free = lesson.get("published", False), lesson.get("isFree", False)
                self.lessons[lesson["id"]] = module["id"], lesson["title"], m, published, is_free
        self.needs = needs
        return True


def stored(db: psycopg.Connection) -> tuple:
    def by_id(query: str) -> dict:
        return {row[0]: row[1:] for row in db.execute(query)}

    return (
        by_id("select id::text, title, position from courses"),
        by_id("select id::text, course_id::text, title, position from modules"),
        by_id("select id::text, module_id::text, title, position, published, is_free from lessons"),
        {*db.execute("select lesson_id::text, prerequisite_id::text from lesson_prerequisites")},
    )


def fill(db: psycopg.Connection, draw: random.Random) -> Tables:
    """Write rows as others may have written them: with gaps, equal and negative positions, and circles."""
    tables = Tables()
    for id in draw.sample(COURSES, draw.randint(0, 3)):
        tables.courses[id] = f"Course {draw.random()}", draw.randint(-2, 9)
    for id in draw.sample(MODULES, draw.randint(0, 5)):
        tables.modules[id] = draw.choice([None, *tables.courses]), f"Module {draw.random()}", draw.randint(-2, 9)
    for id in draw.sample(LESSONS, draw.randint(0, 8) if tables.modules else 0):
        module_id, flags = draw.choice([*tables.modules]), (draw.random() < 0.7, draw.random() < 0.3)
        tables.lessons[id] = module_id, f"Lesson {draw.random()}", draw.randint(-2, 9), *flags
    pairs = [(one, other) for one in tables.lessons for other in tables.lessons if one != other]
    tables.needs = {pair for pair in pairs if draw.random() < 0.06}
    with db.cursor() as cursor:
        for name, rows in (
            ("courses (id, title, position)", tables.courses),
            ("modules (id, course_id, title, position)", tables.modules),
            ("lessons (id, module_id, title, position, published, is_free)", tables.lessons),
        ):
            columns = ", ".join(["%s"] * (name.count(",") + 1))
            cursor.executemany(f"insert into {name} values ({columns})", [(id, *row) for id, row in rows.items()])
        cursor.executemany("insert into lesson_prerequisites values (%s, %s)", tables.needs)
        add_user(db)
        cursor.executemany(
            "insert into progress (user_id, lesson_id, completed_at) values (%s, %s, now())",
            [(LEARNER, id) for id in tables.lessons],
        )
    return tables


def document(draw: random.Random, tables: Tables) -> dict[str, Any]:
    """A file in the right form, of whose prerequisites some are unknown and some form circles."""
    lessons = draw.sample(LESSONS, draw.randint(0, 6))
    known = [*LESSONS, *tables.lessons] if draw.random() < 0.3 else [*lessons, *tables.lessons]

    def lesson(id: str) -> dict[str, Any]:
        row: dict[str, Any] = {"id": id, "title": f"Lesson {draw.random()}", "published": draw.random() < 0.8}
        needs = {draw.choice(known) for _ in range(draw.choice([0, 0, 0, 1, 2]))} - {id}
        return row | {"isFree": draw.random() < 0.3, "prerequisites": sorted(needs)}

    modules: list[dict[str, Any]] = [
        {"id": id, "title": f"Module {draw.random()}", "lessons": []} for id in draw.sample(MODULES, draw.randint(0, 4))
    ]
    for id in lessons:
        if modules:
            draw.choice(modules)["lessons"].append(lesson(id))
    courses: list[dict[str, Any]] = [
        {"id": id, "title": f"Course {draw.random()}", "modules": []} for id in draw.sample(COURSES, draw.randint(0, 3))
    ]
    alone: list[dict[str, Any]] = []
    for module in modules:
        place = draw.choice([alone, *(course["modules"] for course in courses)])
        place.append(module)
    return {"courses": courses} | ({"modules": alone} if alone or draw.random() < 0.5 else {})


@pytest.mark.parametrize("seed", range(1000 if DEEP else 20))
def test_every_load_makes_of_the_tables_what_the_contract_says(db, database_url, tmp_path, seed):
    draw = random.Random(seed)
    tables = fill(db, draw)
    completions = db.execute("select * from progress order by lesson_id").fetchall()
    path = tmp_path / "catalog.json"
    with psycopg.connect(
        database_url, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row
    ) as connection:
        for _ in range(4):
            file, partial = document(draw, tables), draw.random() < 0.7
            path.write_text(json.dumps(file))
            before = stored(db)
            try:
                assert catalog.load(connection, catalog.read_file(path, partial), dry_run=True, partial=partial)
                assert stored(db) == before
                catalog.load(connection, catalog.read_file(path, partial), dry_run=False, partial=partial)
                loaded = True
            except catalog.CatalogError:
                loaded = False
            assert loaded == tables.load(file, partial), (file, partial)
            assert stored(db) == (tables.courses, tables.modules, tables.lessons, tables.needs)
            if loaded:
                written = rows(db)
                catalog.load(connection, catalog.read_file(path, partial), dry_run=False, partial=partial)
                assert rows(db) == written, "the same file again writes nothing"
    assert db.execute("select * from progress order by lesson_id").fetchall() == completions
