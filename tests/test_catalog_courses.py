"""The catalog file with courses (contract §7), and PARTIAL=1, which leaves alone what the file does not name."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.tasks import catalog
from tests.test_catalog import (
    completed,
    free,
    holding,
    in_background,
    lesson,
    lessons,
    module,
    prerequisites,
    wait_for_blocked,
)
from tests.test_cli import ended, make, run, spawn
from tests.world import add_user, complete, require, uuid4

Answer = tuple[int, str, str]
Load = Callable[..., Answer]


def course(number: int, *modules: Any, **members: Any) -> dict:
    return {"id": uuid4(number), "title": f"Course {number:x}", "modules": list(modules)} | members


@pytest.fixture
def load(database_url: str, db: psycopg.Connection, tmp_path: Path) -> Load:
    """Load courses, and modules outside of courses, from a file; the task's exit code, output and errors."""

    def load(*courses: dict, modules: tuple[dict, ...] = (), **variables: str) -> Answer:
        path = tmp_path / "catalog.json"
        path.write_text(json.dumps({"courses": courses} | ({"modules": modules} if modules else {})))
        return run(database_url, "load-catalog", FILE=str(path), **variables)

    return load


def said(*lines: str, end: str = "loaded") -> Answer:
    return 0, "".join(f"{line}\n" for line in (*lines, end)), ""


def report(
    courses: tuple[int, int, int],
    modules: tuple[int, int, int, int],
    lessons: tuple[int, int, int, int, int],
    *more: str,
    needs: tuple[int, int] = (0, 0),
    end: str = "loaded",
) -> Answer:
    """What a load says: counts in the file, added, changed and so on; prerequisites added and removed."""
    return said(
        "courses: {} in the file; {} added, {} changed".format(*courses),
        "modules: {} in the file; {} added, {} changed, {} moved".format(*modules),
        "lessons: {} in the file; {} added, {} changed, {} moved, {} unpublished".format(*lessons),
        "prerequisites: {} added, {} removed".format(*needs),
        *more,
        end=end,
    )


def left(count: int) -> str:
    return f"left as they are: {count} lessons outside of the courses and modules in the file"


def rows(db: psycopg.Connection) -> list[list]:
    """Every row of the catalog and of progress, with the transaction that wrote it."""
    names = ["courses", "modules", "lessons", "lesson_prerequisites", "progress"]
    return [db.execute(f"select xmin::text, t::text from {name} t order by 2").fetchall() for name in names]


def courses(db: psycopg.Connection) -> list[tuple[str, int]]:
    return db.execute("select title, position from courses order by position, id").fetchall()


def modules(db: psycopg.Connection) -> list[tuple[str | None, str, int]]:
    """(course, module, position) by titles, in catalog order."""
    return db.execute(
        "select courses.title, modules.title, modules.position from modules"
        " left join courses on course_id = courses.id"
        " order by courses.position nulls first, courses.id, modules.position, modules.id"
    ).fetchall()


def published(db: psycopg.Connection) -> set[str]:
    return {title for (title,) in db.execute("select title from lessons where published")}


# A whole catalog.


def test_courses_and_modules_load_in_the_order_of_the_file_and_again_without_a_change(db, load):
    file = (
        course(0xC2, module(2, lesson(0x21)), module(1, lesson(0x11, 0x21))),
        course(0xC1, module(4, lesson(0x41)), module(3)),
        course(0xC3),
    )
    alone = (module(6, lesson(0x61)), module(5))
    first = report((3, 3, 0), (6, 6, 0, 0), (4, 4, 0, 0, 0), needs=(1, 0))
    assert load(*file, modules=alone, DRY_RUN="1") == (first[0], first[1].replace("loaded", DRY), "")
    assert courses(db) == []
    assert load(*file, modules=alone) == first
    assert courses(db) == [("Course c2", 1), ("Course c1", 2), ("Course c3", 3)]
    assert modules(db) == [
        (None, "Module 6", 1),
        (None, "Module 5", 2),
        ("Course c2", "Module 2", 1),
        ("Course c2", "Module 1", 2),
        ("Course c1", "Module 4", 1),
        ("Course c1", "Module 3", 2),
    ]
    before = rows(db)
    assert load(*file, modules=alone) == report((3, 0, 0), (6, 0, 0, 0), (4, 0, 0, 0, 0))
    assert rows(db) == before


DRY = "dry run: nothing was written"


def test_a_course_that_changed_is_updated_and_nothing_else_is_written(db, load):
    load(course(0xC1, module(1, lesson(0x11))), course(0xC2, module(2)))
    before = rows(db)
    changed = load(course(0xC1, module(1, lesson(0x11)), title="One ✓"), course(0xC2, module(2)))
    assert changed == report((2, 0, 1), (2, 0, 0, 0), (1, 0, 0, 0, 0))
    assert courses(db) == [("One ✓", 1), ("Course c2", 2)]
    assert [len(set(new) - set(old)) for old, new in zip(before, rows(db), strict=True)] == [1, 0, 0, 0, 0]
    swapped = load(course(0xC2, module(2)), course(0xC1, module(1, lesson(0x11)), title="One ✓"))
    assert swapped == report((2, 0, 2), (2, 0, 0, 0), (1, 0, 0, 0, 0))
    assert courses(db) == [("Course c2", 1), ("One ✓", 2)]


def test_a_module_moves_between_courses_with_every_completion(db, load):
    load(course(0xC1, module(1, lesson(0x11), lesson(0x12)), module(2)), course(0xC2, module(3, lesson(0x31))))
    for user_id in (add_user(db), add_user(db, uuid4(7))):
        complete(db, 0x11, user_id=user_id)
    complete(db, 0x12, 0x31)
    before = completed(db)
    more = "moved: 1 modules with 3 completions, all kept", '  "Module 1": 3 completions'
    # The other module of the first course is its first one now, and the module that moves is the second of its course.
    file = course(0xC1, module(2)), course(0xC2, module(3, lesson(0x31)), module(1, lesson(0x11), lesson(0x12)))
    expected = report((2, 0, 0), (3, 0, 2, 1), (3, 0, 0, 0, 0), *more)
    assert load(*file, DRY_RUN="1") == (0, expected[1].replace("loaded", DRY), "")
    assert load(*file) == expected
    assert modules(db) == [("Course c1", "Module 2", 1), ("Course c2", "Module 3", 1), ("Course c2", "Module 1", 2)]
    assert completed(db) == before


def test_a_module_that_is_listed_outside_of_courses_leaves_its_course(db, load):
    load(course(0xC1, module(1, lesson(0x11))))
    add_user(db)
    complete(db, 0x11)
    more = "moved: 1 modules with 1 completions, all kept", '  "Module 1": 1 completions'
    # Without courses in the file, the report has no line about them.
    assert load(modules=(module(1, lesson(0x11)),)) == said(
        "modules: 1 in the file; 0 added, 0 changed, 1 moved",
        "lessons: 1 in the file; 0 added, 0 changed, 0 moved, 0 unpublished",
        "prerequisites: 0 added, 0 removed",
        *more,
    )
    assert modules(db) == [(None, "Module 1", 1)]
    assert courses(db) == [("Course c1", 1)]
    assert load(course(0xC1, module(1, lesson(0x11)))) == report((1, 0, 0), (1, 0, 0, 1), (1, 0, 0, 0, 0), *more)
    assert modules(db) == [("Course c1", "Module 1", 1)]


def test_a_site_gives_its_modules_courses_and_nothing_else_changes(db, database_url, load, tmp_path):
    """What the operators' page says: the modules of the file that is there move into courses."""
    old = module(1, lesson(0x11)), module(2, lesson(0x21, 0x11)), module(3, lesson(0x31, isFree=True))
    (tmp_path / "old.json").write_text(json.dumps({"modules": old}))
    assert run(database_url, "load-catalog", FILE=str(tmp_path / "old.json"))[0] == 0
    add_user(db)
    complete(db, 0x11, 0x31)
    before = completed(db), lessons(db), prerequisites(db)
    more = (
        "moved: 3 modules with 2 completions, all kept",
        '  "Module 1": 1 completions',
        '  "Module 2": 0 completions',
        '  "Module 3": 1 completions',
    )
    # A lesson right under a course is in a module with the course's id.
    file = course(0xC1, *old[:2]), course(3, old[2])
    assert load(*file) == report((2, 2, 0), (3, 0, 1, 3), (3, 0, 0, 0, 0), *more)
    assert (completed(db), lessons(db), prerequisites(db)) == before
    assert db.execute("select id::text from modules where course_id = id").fetchall() == [(uuid4(3),)]


def test_a_course_that_the_file_no_longer_has_stays_without_published_lessons(db, load):
    load(course(0xC1, module(1, lesson(0x11))), course(0xC2, module(2, lesson(0x21))))
    add_user(db, access=None)
    db.execute("insert into course_enrollments (user_id, course_id) select id, %s from users", [uuid4(0xC2)])
    complete(db, 0x21)
    before = completed(db)
    more = "unpublished: 1 lessons with 1 completions, all kept", '  "Lesson 21": 1 completions'
    assert load(course(0xC1, module(1, lesson(0x11)))) == report((1, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0, 1), *more)
    assert courses(db) == [("Course c1", 1), ("Course c2", 2)]
    assert modules(db) == [("Course c1", "Module 1", 1), ("Course c2", "Module 2", 1)]
    assert published(db) == {"Lesson 11"}
    assert completed(db) == before
    assert db.execute("select from course_enrollments").rowcount == 1


ONE_COURSE_ALONE = "lessons stay locked for good for a learner who has only the course of the lesson"


def test_prerequisites_go_across_courses_and_what_one_course_alone_never_unlocks_is_warned_of(db, load):
    file = (
        course(
            0xC1,
            module(1, lesson(0x11, 0x21), lesson(0x12), lesson(0x13, 0x12, 0x11), lesson(0x14, 0x31)),
            # An unpublished lesson neither locks nor is locked.
            module(4, lesson(0x41, 0x22), lesson(0x42, 0x21, published=False), lesson(0x43, 0x42)),
        ),
        course(0xC2, module(2, lesson(0x21), lesson(0x22, published=False), lesson(0x23, 0x13))),
    )
    alone = (module(3, lesson(0x31), lesson(0x32, 0x11)),)
    assert load(*file, modules=alone) == report(
        (2, 2, 0),
        (4, 4, 0, 0),
        (12, 12, 0, 0, 0),
        f"warning: 4 {ONE_COURSE_ALONE}",
        '  "Lesson 11" needs "Lesson 21"',
        '  "Lesson 13" needs "Lesson 11"',
        '  "Lesson 14" needs "Lesson 31"',
        '  "Lesson 23" needs "Lesson 13"',
        needs=(9, 0),
    )
    assert (uuid4(0x11), uuid4(0x21)) in prerequisites(db)
    # A partial load sees the lessons that its file does not have.
    second = load(course(0xC2, module(2, lesson(0x21), lesson(0x23))), PARTIAL="1")[1].splitlines()
    assert second[second.index(f"warning: 3 {ONE_COURSE_ALONE}") + 1 :] == [
        '  "Lesson 11" needs "Lesson 21"',
        '  "Lesson 13" needs "Lesson 11"',
        '  "Lesson 14" needs "Lesson 31"',
        "loaded",
    ]


def test_a_catalog_of_10_000_lessons_in_50_courses_loads_and_loads_again(db, database_url, tmp_path):
    file = [
        course(
            0xC0 + c,
            *(
                module(0xF000000 + c * 10 + m, *(lesson(1 + c * 200 + m * 20 + n) for n in range(20)))
                for m in range(10)
            ),
        )
        for c in range(50)
    ]
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"courses": file}))
    first = report((50, 50, 0), (500, 500, 0, 0), (10_000, 10_000, 0, 0, 0))
    assert run(database_url, "load-catalog", str(path)) == first
    before = rows(db)
    assert run(database_url, "load-catalog", str(path)) == report((50, 0, 0), (500, 0, 0, 0), (10_000, 0, 0, 0, 0))
    path.write_text(json.dumps({"courses": file[7:8]}))
    one = report((1, 0, 0), (10, 0, 0, 0), (200, 0, 0, 0, 0), left(9_800))
    assert run(database_url, "load-catalog", str(path), PARTIAL="1") == one
    assert rows(db) == before


# What is refused.


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ({"courses": None}, ["courses: is null"]),
        ({"courses": {}}, ["courses: is not a list"]),
        ({"courses": [1], "modules": None}, ["courses[0]: is not an object", "modules: is null"]),
        (
            {"courses": [{}]},
            ["courses[0].id: is missing", "courses[0].modules: is missing", "courses[0].title: is missing"],
        ),
        (
            {"courses": [course(0xC1), course(0xC2, module(1, lesson(0x11, title=" ")), id="c2", position=1)]},
            [
                'courses[1].id: "c2" is not a UUID version 4',
                "courses[1].modules[0].lessons[0].title: is empty",
                "courses[1].position: is not a key of the catalog file",
            ],
        ),
        (
            {"courses": [course(0xC1), course(0xC2), course(0xC1, id=uuid4(0xC1).upper())]},
            [f"courses[2].id: {uuid4(0xC1)} is also the id at courses[0].id"],
        ),
        (
            {"courses": [course(0xC1, module(1)), course(0xC2, module(2), module(1))]},
            [f"courses[1].modules[1].id: {uuid4(1)} is also the id at courses[0].modules[0].id"],
        ),
        (
            {"courses": [course(0xC1, module(1))], "modules": [module(2), module(1)]},
            [f"courses[0].modules[0].id: {uuid4(1)} is also the id at modules[1].id"],
        ),
        (
            {"courses": [course(0xC1, module(1, lesson(0x11)))], "modules": [module(2, lesson(0x11))]},
            [f"courses[0].modules[0].lessons[0].id: {uuid4(0x11)} is also the id at modules[0].lessons[0].id"],
        ),
        # Several kinds at once.
        (
            {"courses": [course(0xC1), course(0xC1, module(1, lesson(0x11, 0x11, 0xC1), lesson(0x11)))]},
            [
                f"courses[1].id: {uuid4(0xC1)} is also the id at courses[0].id",
                f"courses[1].modules[0].lessons[1].id: {uuid4(0x11)} is also the id at"
                " courses[1].modules[0].lessons[0].id",
                "courses[1].modules[0].lessons[0].prerequisites[0]: the lesson is its own prerequisite",
                f"courses[1].modules[0].lessons[0].prerequisites[1]: {uuid4(0xC1)} is no lesson of this file",
            ],
        ),
    ],
)
def test_a_file_with_courses_is_refused_with_the_place_of_every_fault(tmp_path, document, faults):
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps(document))
    with pytest.raises(catalog.CatalogError) as error:
        catalog.read_file(path)
    assert str(error.value).splitlines() == faults


def test_a_circle_across_courses_is_refused(tmp_path):
    path = tmp_path / "catalog.json"
    file = course(0xC1, module(1, lesson(0x11, 0x21))), course(0xC2, module(2, lesson(0x21, 0x11)))
    path.write_text(json.dumps({"courses": file}))
    with pytest.raises(catalog.CatalogError, match=r'^prerequisites go in a circle: "Lesson 11" .* needs "Lesson 11" '):
        catalog.read_file(path)


# A part of the catalog.


@pytest.fixture
def world(db: psycopg.Connection, load: Load) -> psycopg.Connection:
    """Two courses and two modules outside of them, whose positions have gaps, and somebody who completed lessons."""
    assert (
        load(
            course(0xC1, module(1, lesson(0x11), lesson(0x12, 0x11)), module(2, lesson(0x21, 0x12))),
            course(0xC2, module(3, lesson(0x31, 0x41)), module(4, lesson(0x41))),
            modules=(module(5, lesson(0x51)), module(6, lesson(0x61))),
        )[0]
        == 0
    )
    db.execute("update courses set position = position * 10")
    db.execute("update modules set position = position * 10")
    db.execute("update lessons set position = position * 10")
    add_user(db)
    complete(db, 0x11, 0x12, 0x31, 0x51)
    return db


def positions(world: psycopg.Connection) -> list:
    return [*courses(world), *modules(world)]


def test_one_course_is_loaded_and_the_rest_is_not_touched(world, load):
    before = rows(world)
    file = course(0xC2, module(4, lesson(0x41), lesson(0x42)), module(3, lesson(0x31, 0x42)), title="Two")
    expected = report((1, 0, 1), (2, 0, 2, 0), (3, 1, 2, 0, 0), left(5), needs=(1, 1))
    assert load(file, PARTIAL="1", DRY_RUN="1") == (0, expected[1].replace("loaded", DRY), "")
    assert rows(world) == before
    assert load(file, PARTIAL="1") == expected
    # The course keeps its position; the order of the file holds inside of it.
    assert positions(world) == [
        ("Course c1", 10),
        ("Two", 20),
        (None, "Module 5", 10),
        (None, "Module 6", 20),
        ("Course c1", "Module 1", 10),
        ("Course c1", "Module 2", 20),
        ("Two", "Module 4", 1),
        ("Two", "Module 3", 2),
    ]
    assert [(row[0], row[3]) for row in lessons(world) if row[1] in (uuid4(3), uuid4(4))] == [
        (uuid4(0x31), 1),
        (uuid4(0x41), 1),
        (uuid4(0x42), 2),
    ]
    assert prerequisites(world) == [
        (uuid4(0x12), uuid4(0x11)),
        (uuid4(0x21), uuid4(0x12)),
        (uuid4(0x31), uuid4(0x42)),
    ]
    # Written: one course, two modules, three lessons, one prerequisite, no completion.
    written = [len(set(new) - set(old)) for old, new in zip(before, rows(world), strict=True)]
    assert written == [1, 2, 3, 1, 0]
    again = rows(world)
    assert load(file, PARTIAL="1") == report((1, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0, 0), left(5))
    assert rows(world) == again


def test_what_a_named_course_or_module_has_no_longer_is_unpublished(world, load):
    more = (
        "unpublished: 2 lessons with 1 completions, all kept",
        '  "Lesson 21": 0 completions',
        '  "Lesson 12": 1 completions',
    )
    # Module 2 is not in the file, and its course is; lesson 12 is not, and its module is.
    assert load(course(0xC1, module(1, lesson(0x11))), PARTIAL="1") == report(
        (1, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0, 2), left(4), *more
    )
    assert published(world) == {"Lesson 11", "Lesson 31", "Lesson 41", "Lesson 51", "Lesson 61"}
    assert [row[:2] for row in modules(world) if row[0] == "Course c1"] == [
        ("Course c1", "Module 1"),
        ("Course c1", "Module 2"),
    ]


def test_one_module_outside_of_courses_is_loaded_and_keeps_its_position(world, load):
    before = positions(world)
    more = "unpublished: 1 lessons with 0 completions, all kept", '  "Lesson 61": 0 completions'
    assert load(modules=(module(6, lesson(0x62)),), PARTIAL="1") == said(
        "modules: 1 in the file; 0 added, 0 changed",
        "lessons: 1 in the file; 1 added, 0 changed, 0 moved, 1 unpublished",
        "prerequisites: 0 added, 0 removed",
        left(6),
        *more,
    )
    assert positions(world) == before


def test_a_new_course_or_module_goes_last_and_the_file_orders_what_is_new(world, load):
    # The positions in other courses do not count.
    world.execute("update modules set position = 99 where course_id = %s", [uuid4(0xC1)])
    new = (course(0xCB), course(0xC2, module(3, lesson(0x31, 0x11)), module(4, lesson(0x41))), course(0xCA))
    assert load(*new, modules=(module(9), module(6, lesson(0x61)), module(8)), PARTIAL="1")[0] == 0
    assert courses(world) == [("Course c1", 10), ("Course c2", 20), ("Course cb", 21), ("Course ca", 22)]
    assert modules(world)[:4] == [
        (None, "Module 5", 10),
        (None, "Module 6", 20),
        (None, "Module 9", 21),
        (None, "Module 8", 22),
    ]


def test_into_an_empty_database_a_partial_load_is_a_whole_one(db, load):
    file = course(0xC2, module(2, lesson(0x21))), course(0xC1, module(1))
    assert load(*file, modules=(module(4), module(3)), PARTIAL="1") == report((2, 2, 0), (4, 4, 0, 0), (1, 1, 0, 0, 0))
    before = rows(db)
    assert load(*file, modules=(module(4), module(3)))[0] == 0
    assert rows(db) == before


def test_modules_and_lessons_move_into_what_the_file_names_with_their_completions(world, load):
    before = completed(world)
    # A module of another course, a module without a course, and a lesson of a course that the file does not name.
    file = course(
        0xC2,
        module(3, lesson(0x31, 0x41)),
        module(4, lesson(0x41), lesson(0x12, 0x11)),
        module(2, lesson(0x21, 0x12)),
        module(5, lesson(0x51)),
    )
    more = (
        "moved: 2 modules with 1 completions, all kept",
        '  "Module 2": 0 completions',
        '  "Module 5": 1 completions',
        "moved: 1 lessons with 1 completions, all kept",
        '  "Lesson 12": 1 completions',
        f"warning: 2 {ONE_COURSE_ALONE}",
        '  "Lesson 12" needs "Lesson 11"',
        '  "Lesson 21" needs "Lesson 12"',
    )
    assert load(file, PARTIAL="1") == report((1, 0, 0), (4, 0, 4, 2), (5, 0, 5, 1, 0), left(2), *more)
    assert modules(world) == [
        (None, "Module 6", 20),
        ("Course c1", "Module 1", 10),
        ("Course c2", "Module 3", 1),
        ("Course c2", "Module 4", 2),
        ("Course c2", "Module 2", 3),
        ("Course c2", "Module 5", 4),
    ]
    assert completed(world) == before
    assert published(world) == {f"Lesson {number}" for number in (11, 12, 21, 31, 41, 51, 61)}


def test_a_module_that_leaves_its_course_goes_last(world, load):
    assert load(modules=(module(2, lesson(0x21, 0x12)),), PARTIAL="1")[0] == 0
    assert modules(world)[:3] == [(None, "Module 5", 10), (None, "Module 6", 20), (None, "Module 2", 21)]


def test_an_empty_partial_file_changes_nothing(world, load):
    before = rows(world)
    assert load(PARTIAL="1") == said(
        "modules: 0 in the file; 0 added, 0 changed",
        "lessons: 0 in the file; 0 added, 0 changed, 0 moved, 0 unpublished",
        "prerequisites: 0 added, 0 removed",
        left(7),
    )
    assert rows(world) == before


def test_by_make_a_partial_load_is_asked_for(world, database_url, tmp_path):
    path = tmp_path / "catalog.json"
    path.write_text(json.dumps({"courses": [course(0xC2, module(4, lesson(0x41)), module(3))]}))
    dry = make(database_url, "load-catalog", f"FILE={path}", "PARTIAL=1", "DRY_RUN=1")
    assert dry[0] == 0
    assert left(5) in dry[1]
    # What is in the environment counts only without make.
    assert left(5) not in make(database_url, "load-catalog", f"FILE={path}", "DRY_RUN=1", PARTIAL="1")[1]
    assert len(published(world)) == 7


def test_without_partial_the_file_is_the_whole_catalog(world, load):
    assert load(course(0xC2, module(4, lesson(0x41))), PARTIAL="")[0] == 0
    assert published(world) == {"Lesson 41"}


def not_loaded(tmp_path: Path, *faults: str) -> Answer:
    return 1, "", "".join(f"{line}\n" for line in (f"Error: {tmp_path}/catalog.json is not loaded:", *faults))


def test_a_prerequisite_may_be_in_the_database(world, load):
    assert load(course(0xC2, module(4, lesson(0x41, 0x21, 0x61))), PARTIAL="1")[0] == 0
    assert prerequisites(world)[-2:] == [(uuid4(0x41), uuid4(0x21)), (uuid4(0x41), uuid4(0x61))]


def test_a_prerequisite_that_is_nowhere_is_refused_with_its_place(world, load, tmp_path):
    before = rows(world)
    place = "courses[0].modules[0].lessons[1].prerequisites"
    file = course(0xC2, module(4, lesson(0x42), lesson(0x41, 0x99, 0x41, 0x21, 0x21, 4)))
    assert load(file, PARTIAL="1") == not_loaded(
        tmp_path,
        f"{place}[0]: {uuid4(0x99)} is no lesson of this file or of the database",
        f"{place}[1]: the lesson is its own prerequisite",
        f"{place}[3]: {uuid4(0x21)} stands twice",
        f"{place}[4]: {uuid4(4)} is no lesson of this file or of the database",
    )
    twice = course(0xC2, module(4, lesson(0x41), lesson(0x41)))
    assert load(twice, PARTIAL="1") == not_loaded(
        tmp_path,
        f"courses[0].modules[0].lessons[1].id: {uuid4(0x41)} is also the id at courses[0].modules[0].lessons[0].id",
    )
    assert rows(world) == before


def named(*numbers: int) -> str:
    return " needs ".join(f'"Lesson {n:x}" ({uuid4(n)})' for n in numbers)


def test_a_circle_through_the_database_is_refused_all_the_way_round(world, load, tmp_path):
    before = rows(world)
    # In the database, 21 needs 12, and 12 needs 11.
    for variables in ({}, {"DRY_RUN": "1"}):
        answer = load(modules=(module(9, lesson(0x11, 0x21)),), PARTIAL="1", **variables)
        assert answer[:2] == (1, "")
        assert answer == not_loaded(tmp_path, f"prerequisites go in a circle: {named(0x11, 0x21, 0x12, 0x11)}")
    assert rows(world) == before
    # The file replaces the prerequisites of its own lessons, so they are no circle any more.
    assert load(modules=(module(9, lesson(0x11, 0x21), lesson(0x12)),), PARTIAL="1")[0] == 0


def test_a_circle_elsewhere_in_the_database_does_not_stop_a_load_and_one_that_the_file_needs_does(
    world, load, tmp_path
):
    require(world, 0x51, 0x61)
    require(world, 0x61, 0x51)
    assert load(course(0xC2, module(3, lesson(0x31, 0x11))), PARTIAL="1")[0] == 0
    needing = load(course(0xC2, module(3, lesson(0x31, 0x51))), PARTIAL="1")
    assert needing == not_loaded(tmp_path, f"prerequisites go in a circle: {named(0x51, 0x61, 0x51)}")


def test_a_partial_load_warns_of_lessons_in_the_database_too(world, load):
    load(course(0xC3, module(7, free(0x71), free(0x72, 0x71))), PARTIAL="1")
    # 71 is not free any more, and locks 72 in the next module, which the file does not have.
    file = course(0xC3, module(7, lesson(0x71), free(0x72, 0x71)))
    warned = "warning: 1 free lessons stay locked for good for learners with free access alone"
    assert load(file, PARTIAL="1")[1].splitlines()[-3:] == [warned, '  "Lesson 72" needs "Lesson 71"', "loaded"]
    outside = load(modules=(module(8, free(0x81, 0x72)),), PARTIAL="1")[1].splitlines()
    assert outside[-4:] == [
        warned.replace("1", "2"),
        '  "Lesson 81" needs "Lesson 72"',
        '  "Lesson 72" needs "Lesson 71"',
        "loaded",
    ]
    # What a load unpublishes locks nothing.
    assert load(course(0xC3, module(7, free(0x72))), PARTIAL="1")[1].splitlines()[-1] == "loaded"
    assert "warning" not in load(modules=(module(8, free(0x81, 0x71)),), PARTIAL="1")[1]


def test_two_partial_loads_at_once_put_their_new_courses_one_after_the_other(world, database_url, load, tmp_path):
    files = []
    for number in (0xCA, 0xCB):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"courses": [course(number, module(number))]}))
    processes = [spawn(database_url, "load-catalog", str(path), PARTIAL="1") for path in files]
    assert [ended(process)[0] for process in processes] == [0, 0]
    assert [position for _, position in courses(world)] == [10, 20, 21, 22]


def test_a_learner_gets_a_course_while_a_load_has_its_locks(world, database_url, load):
    lock = f"select from lessons where id = '{uuid4(0x12)}' for update"
    file = course(0xC1, module(1, lesson(0x11), lesson(0x12, title="Waits")))
    with holding(database_url, lock) as other, in_background(lambda: load(file, PARTIAL="1")) as answers:
        wait_for_blocked(world, by="catalog_lessons")
        with closing(psycopg.connect(database_url, autocommit=True)) as service:
            service.execute("set lock_timeout = '5s'")
            service.execute(
                "insert into course_enrollments (user_id, course_id) select users.id, courses.id from users, courses"
            )
        other.commit()
    assert answers[0][0] == 0
