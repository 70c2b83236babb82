"""The catalog file (contract §7): what a load changes and reports, and every file that it refuses."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from app.tasks import catalog
from tests.calls import reads
from tests.conftest import ROOT
from tests.test_cli import ended, run, spawn
from tests.world import LEARNER, add_course, add_module, add_user, complete, get, mark, ok, require, unmark, uuid4

CURRICULA = ROOT / "app" / "demo" / "catalogs"


def lesson(number: int, *prerequisites: int, **members: Any) -> dict:
    """Return a published lesson for a file, equal to the one that world.add_lesson adds."""
    needs = {"prerequisites": [uuid4(needed) for needed in prerequisites]} if prerequisites else {}
    return {"id": uuid4(number), "title": f"Lesson {number:x}", "published": True} | needs | members


def module(number: int, *lessons: Any, **members: Any) -> dict:
    return {"id": uuid4(number), "title": f"Module {number:x}", "lessons": list(lessons)} | members


@pytest.fixture
def load(database_url: str, db: psycopg.Connection, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Return a function that loads modules from a file, and returns the exit code, the output and the errors."""

    def load(*modules: dict, **variables: str) -> tuple[int, str, str]:
        path = tmp_path / "catalog.json"
        path.write_text(json.dumps({"modules": modules}))
        return run(database_url, "load-catalog", FILE=str(path), **variables)

    return load


def report(
    modules: tuple[int, int, int],
    lessons: tuple[int, int, int, int, int],
    prerequisites: tuple[int, int] = (0, 0),
    *more: str,
    end: str = "loaded",
) -> tuple[int, str, str]:
    """Return the output of a load with these counts.

    `modules` are in the file, added, changed. `lessons` are in the file, added, changed, moved, unpublished.
    `prerequisites` are added, removed.
    """
    lines = [
        "modules: {} in the file; {} added, {} changed".format(*modules),
        "lessons: {} in the file; {} added, {} changed, {} moved, {} unpublished".format(*lessons),
        "prerequisites: {} added, {} removed".format(*prerequisites),
        *more,
        end,
    ]
    return 0, "".join(f"{line}\n" for line in lines), ""


def rows(db: psycopg.Connection) -> list[list]:
    """Return every row of the catalog and of progress, each with the id of the transaction that wrote it."""
    names = ["modules", "lessons", "lesson_prerequisites", "progress"]
    return [db.execute(f"select xmin::text, t::text from {name} t order by 2").fetchall() for name in names]


def modules(db: psycopg.Connection) -> list:
    return db.execute("select id::text, title, position from modules order by 1").fetchall()


def lessons(db: psycopg.Connection) -> list:
    """(id, module, title, position, published, is_free) of every lesson."""
    columns = "id::text, module_id::text, title, position, published, is_free"
    return db.execute(f"select {columns} from lessons order by 1").fetchall()


def prerequisites(db: psycopg.Connection) -> list:
    return db.execute(
        "select lesson_id::text, prerequisite_id::text from lesson_prerequisites order by 1, 2"
    ).fetchall()


def completed(db: psycopg.Connection) -> list:
    return db.execute("select user_id::text, lesson_id::text, completed_at from progress order by 1, 2").fetchall()


# What a load does.


@pytest.mark.parametrize(("name", "counts", "needs"), [("odin", (62, 284), 0), ("exercism-javascript", (32, 169), 424)])
def test_a_real_curriculum_loads_as_it_stands_and_again_without_a_change(db, database_url, name, counts, needs):
    path = CURRICULA / f"{name}.json"
    document = json.loads(path.read_text("utf-8"))["modules"]
    first = report((counts[0], counts[0], 0), (counts[1], counts[1], 0, 0, 0), (needs, 0))
    assert run(database_url, "load-catalog", str(path)) == first
    assert modules(db) == sorted((m["id"], m["title"], n) for n, m in enumerate(document, 1))
    assert lessons(db) == sorted(
        (one["id"], m["id"], one["title"], n, one.get("published", False), one.get("isFree", False))
        for m in document
        for n, one in enumerate(m["lessons"], 1)
    )
    assert prerequisites(db) == sorted(
        (one["id"], need) for m in document for one in m["lessons"] for need in one.get("prerequisites", [])
    )
    before = rows(db)
    again = report((counts[0], 0, 0), (counts[1], 0, 0, 0, 0))
    assert run(database_url, "load-catalog", FILE=str(path)) == again
    assert rows(db) == before


def test_what_the_file_leaves_out_has_its_default(db, load):
    assert load(module(1, {"id": uuid4(0x11), "title": "Bare"})) == report((1, 1, 0), (1, 1, 0, 0, 0))
    assert lessons(db) == [(uuid4(0x11), uuid4(1), "Bare", 1, False, False)]
    assert prerequisites(db) == []


def test_a_lesson_whose_members_the_file_no_longer_has_gets_the_defaults_back(db, load):
    load(module(1, lesson(0x11), lesson(0x12, 0x11, isFree=True)))
    bare = {"id": uuid4(0x12), "title": "Lesson 12"}
    more = "unpublished: 1 lessons with 0 completions, all kept", '  "Lesson 12": 0 completions'
    assert load(module(1, lesson(0x11), bare)) == report((1, 0, 0), (2, 0, 1, 0, 1), (0, 1), *more)
    assert lessons(db)[1] == (uuid4(0x12), uuid4(1), "Lesson 12", 2, False, False)
    assert prerequisites(db) == []


def test_order_in_the_file_is_position(db, load):
    load(module(2, lesson(0x22), lesson(0x21)), module(1), module(3, lesson(0x31)))
    assert [(id, position) for id, _, position in modules(db)] == [(uuid4(1), 2), (uuid4(2), 1), (uuid4(3), 3)]
    assert [(row[0], row[3]) for row in lessons(db)] == [(uuid4(0x21), 2), (uuid4(0x22), 1), (uuid4(0x31), 1)]
    swapped = load(module(1), module(2, lesson(0x21), lesson(0x22)), module(3, lesson(0x31)))
    assert swapped == report((3, 0, 2), (3, 0, 2, 0, 0))
    assert [(row[0], row[3]) for row in lessons(db)] == [(uuid4(0x21), 1), (uuid4(0x22), 2), (uuid4(0x31), 1)]


def test_what_changed_is_updated_and_nothing_else_is_written(db, load):
    load(module(1, lesson(0x11), lesson(0x12)), module(2, lesson(0x21, 0x11)))
    before = rows(db)
    changed = load(module(1, lesson(0x11, title="New ✓"), lesson(0x12)), module(2, lesson(0x21, 0x11), title="Two"))
    assert changed == report((2, 0, 1), (3, 0, 1, 0, 0))
    assert [row[1] for row in modules(db)] == ["Module 1", "Two"]
    assert [row[2] for row in lessons(db)] == ["New ✓", "Lesson 12", "Lesson 21"]
    after = rows(db)
    assert [len(set(new) - set(old)) for old, new in zip(before, after, strict=True)] == [1, 1, 0, 0]


def test_published_and_free_are_as_the_file_says(db, load):
    load(module(1, lesson(0x11, isFree=True), lesson(0x12, published=False)))
    turned = load(module(1, lesson(0x11, isFree=False), lesson(0x12, published=True)))
    assert turned == report((1, 0, 0), (2, 0, 2, 0, 0))
    assert [row[4:] for row in lessons(db)] == [(True, False), (True, False)]


def test_a_lesson_moves_to_another_module_with_its_completions(db, load):
    load(module(1, lesson(0x11), lesson(0x12)), module(2))
    add_user(db)
    complete(db, 0x11, 0x12)
    before = completed(db)
    more = "moved: 1 lessons with 1 completions, all kept", '  "Lesson 11": 1 completions'
    # One lesson changes, because it is now the first one of its module.
    moved = report((2, 0, 0), (2, 0, 1, 1, 0), (0, 0), *more)
    assert load(module(1, lesson(0x12)), module(2, lesson(0x11))) == moved
    assert [row[:2] for row in lessons(db)] == [(uuid4(0x11), uuid4(2)), (uuid4(0x12), uuid4(1))]
    assert completed(db) == before


def test_a_lesson_that_the_file_no_longer_has_is_unpublished_and_nothing_is_deleted(db, load):
    load(module(1, lesson(0x11, isFree=True), lesson(0x12, 0x11)), module(2, lesson(0x21), lesson(0x22, 0x12)))
    for user_id in (LEARNER, uuid4(7)):
        add_user(db, user_id)
        complete(db, 0x12, 0x22, user_id=user_id)
    before, needed = completed(db), prerequisites(db)
    more = (
        "unpublished: 3 lessons with 4 completions, all kept",
        '  "Lesson 12": 2 completions',
        '  "Lesson 21": 0 completions',
        '  "Lesson 22": 2 completions',
    )
    only = (module(1, lesson(0x11, isFree=True)),)
    code, out, err = load(*only)
    assert (code, sorted(out.splitlines()), err) == (
        0,
        sorted(report((1, 0, 0), (1, 0, 0, 0, 3), (0, 0), *more)[1].splitlines()),
        "",
    )
    assert [row[0] for row in modules(db)] == [uuid4(1), uuid4(2)]
    assert lessons(db) == [
        (uuid4(0x11), uuid4(1), "Lesson 11", 1, True, True),
        (uuid4(0x12), uuid4(1), "Lesson 12", 2, False, False),
        (uuid4(0x21), uuid4(2), "Lesson 21", 1, False, False),
        (uuid4(0x22), uuid4(2), "Lesson 22", 2, False, False),
    ]
    assert (completed(db), prerequisites(db)) == (before, needed)
    written = rows(db)
    assert load(*only) == report((1, 0, 0), (1, 0, 0, 0, 0))
    assert rows(db) == written


def test_a_file_without_modules_unpublishes_every_lesson(db, load):
    load(module(1, lesson(0x11)))
    more = "unpublished: 1 lessons with 0 completions, all kept", '  "Lesson 11": 0 completions'
    assert load() == report((0, 0, 0), (0, 0, 0, 0, 1), (0, 0), *more)
    assert lessons(db) == [(uuid4(0x11), uuid4(1), "Lesson 11", 1, False, False)]


def test_a_lesson_that_is_back_in_a_later_file_is_as_that_file_says(db, load):
    load(module(1, lesson(0x11), lesson(0x12, 0x11)))
    add_user(db)
    complete(db, 0x12)
    load(module(1, lesson(0x11)))
    back = load(module(2, lesson(0x12, title="Back", isFree=True)), module(1, lesson(0x11)))
    more = (
        "moved: 1 lessons with 1 completions, all kept",
        '  "Back": 1 completions',
    )
    assert back == report((2, 1, 1), (2, 0, 1, 1, 0), (0, 1), *more)
    assert lessons(db)[1] == (uuid4(0x12), uuid4(2), "Back", 1, True, True)
    assert prerequisites(db) == []
    assert [row[1] for row in completed(db)] == [uuid4(0x12)]


def test_prerequisites_are_replaced_by_the_files(db, load):
    load(module(1, lesson(0x11), lesson(0x12, 0x11), lesson(0x13, 0x11, 0x12)))
    replaced = load(module(1, lesson(0x11, 0x13), lesson(0x14), lesson(0x12, 0x14), lesson(0x13)))
    assert replaced == report((1, 0, 0), (4, 1, 2, 0, 0), (2, 3))
    assert prerequisites(db) == [(uuid4(0x11), uuid4(0x13)), (uuid4(0x12), uuid4(0x14))]


def test_a_prerequisite_outside_the_file_is_taken_from_a_lesson_in_it(db, load):
    add_module(db, 9, 0x91)
    add_module(db, 1, 0x11)
    require(db, 0x11, 0x91)
    more = "unpublished: 1 lessons with 0 completions, all kept", '  "Lesson 91": 0 completions'
    assert load(module(1, lesson(0x11))) == report((1, 0, 0), (1, 0, 0, 0, 1), (0, 1), *more)
    assert prerequisites(db) == []


def test_ids_are_lower_cased_and_titles_kept_as_they_are(db, load):
    title = "  'é\u00a0\"\\ \n %s :'x' 😀"
    upper = lesson(0xABCDEF, title=title) | {"id": uuid4(0xABCDEF).upper()}
    needing = lesson(0x12) | {"prerequisites": [uuid4(0xABCDEF).upper()]}
    assert load(module(0xA) | {"id": uuid4(0xA).upper(), "lessons": [upper, needing]})[0] == 0
    assert [row[0] for row in modules(db)] == [uuid4(0xA)]
    assert [row[:3] for row in lessons(db)] == [
        (uuid4(0x12), uuid4(0xA), "Lesson 12"),
        (uuid4(0xABCDEF), uuid4(0xA), title),
    ]
    assert prerequisites(db) == [(uuid4(0x12), uuid4(0xABCDEF))]


def test_a_title_may_have_five_hundred_characters_and_those_beside_the_surrogates(db, load):
    title = "\ud7ff\ue000".ljust(500, "x")
    assert load(module(1, lesson(0x11, title=title)))[0] == 0
    assert lessons(db)[0][2] == title


def test_a_title_with_a_line_break_keeps_its_line_of_the_report(load):
    load(module(1, lesson(0x11, title='a\n"b"')))
    more = "unpublished: 1 lessons with 0 completions, all kept", '  "a\\n\\"b\\"": 0 completions'
    assert load() == report((0, 0, 0), (0, 0, 0, 0, 1), (0, 0), *more)


@pytest.mark.parametrize(("count", "end"), [(20, []), (21, ["  and 1 more"]), (23, ["  and 3 more"])])
def test_more_than_20_lessons_of_a_kind_are_20_and_how_many_more(load, count, end):
    load(module(1, *(lesson(0x100 + n) for n in range(count))))
    more = [f'  "Lesson {0x100 + n:x}": 0 completions' for n in range(20)]
    header = f"unpublished: {count} lessons with 0 completions, all kept"
    assert load() == report((0, 0, 0), (0, 0, 0, 0, count), (0, 0), header, *more, *end)


def test_a_dry_run_reports_what_a_load_would_do_and_writes_nothing(db, load):
    load(module(1, lesson(0x11), lesson(0x12, 0x11)), module(2))
    add_user(db)
    complete(db, 0x11)
    before = rows(db)
    file = module(2, lesson(0x11, title="Moved", isFree=True), lesson(0x13), title="Two"), module(3)
    dry = load(*file, DRY_RUN="1")
    assert rows(db) == before
    code, out, err = load(*file)
    assert dry == (code, out.removesuffix("loaded\n") + "dry run: nothing was written\n", err)
    assert out.startswith("modules: 2 in the file; 1 added, 1 changed\nlessons: 2 in the file; 1 added, 1 changed, 1 m")
    assert load(*file, DRY_RUN="1") == report((2, 0, 0), (2, 0, 0, 0, 0), end="dry run: nothing was written")


def free(number: int, *prerequisites: int, **members: Any) -> dict:
    return lesson(number, *prerequisites, **{"isFree": True} | members)


def test_the_marks_of_what_is_loaded_count(api: FlaskClient, db, load):
    add_user(db)
    load(module(1, lesson(0x11), lesson(0x12, 0x11)))
    assert get(api, "summary") == {"percent": 0, "completedCount": 0, "totalCount": 1}
    ok(mark(api, 0x11))
    assert get(api, "summary") == {"percent": 50, "completedCount": 1, "totalCount": 2}
    load(module(1, lesson(0x12)))
    assert get(api, "summary") == {"percent": 0, "completedCount": 0, "totalCount": 1}


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ([free(1), free(2, 1), free(3, 2)], []),
        ([lesson(1), lesson(2, 1)], []),
        ([lesson(1), free(2, 1)], [(2, 1)]),
        ([lesson(1), free(2, 1), free(3, 2), free(4, 3)], [(2, 1), (3, 2), (4, 3)]),
        ([free(4, 3), free(3, 2), free(2, 1), lesson(1)], [(4, 3), (3, 2), (2, 1)]),
        ([lesson(1, published=False), free(2, 1)], []),
        ([lesson(1), free(2, 1, published=False), free(3, 2)], []),
        ([lesson(1), free(2, 1), lesson(3, 2)], [(2, 1)]),
        ([free(1), lesson(2, 1), free(3, 2)], [(3, 2)]),
        ([lesson(1), free(2, published=False), free(3), free(4, 2, 3, 1)], [(4, 1)]),
        ([lesson(1), free(2, 1), free(3), free(4, 3, 2), free(5, 3)], [(2, 1), (4, 2)]),
        ([lesson(1), lesson(2), free(3, 2, 1)], [(3, 2)]),
    ],
)
def test_every_free_lesson_that_stays_locked_for_good_is_warned_of(load, file, kept):
    lines = [f'  "Lesson {locked:x}" needs "Lesson {need:x}"' for locked, need in kept]
    if kept:
        lines[:0] = [f"warning: {len(kept)} free lessons stay locked for good for learners with free access alone"]
    needs = sum(len(one.get("prerequisites", [])) for one in file)
    expected = report((1, 1, 0), (len(file), len(file), 0, 0, 0), (needs, 0), *lines)
    assert load(module(0xF, *file)) == expected


def test_more_than_20_lessons_locked_for_good_are_20_and_how_many_more(load):
    file = [lesson(1), *(free(0x100 + n, 1) for n in range(21))]
    lines = load(module(0xF, *file), DRY_RUN="1")[1].splitlines()
    assert lines[3] == "warning: 21 free lessons stay locked for good for learners with free access alone"
    assert lines[23:] == ['  "Lesson 113" needs "Lesson 1"', "  and 1 more", "dry run: nothing was written"]


# What is refused.

GOOD = json.dumps({"modules": [module(1, lesson(0x11))]})
DEEP = 100_000
V1 = "00000001-0000-1000-8000-000000000000"


def text(*modules: Any, **members: Any) -> str:
    return json.dumps({"modules": modules} | members)


def both(*lessons: Any) -> str:
    """Return a file with one module that has these lessons."""
    return text(module(1, *lessons))


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "catalog.json"
    path.write_text(GOOD, "utf-8-sig")
    assert [row["title"] for row in catalog.read_file(path)["modules"]] == ["Module 1"]


FAULTS: list[tuple[str, str | bytes, list[str]]] = [
    # Not JSON.
    ("empty", "", ["line 1, column 1: not JSON: Expecting value"]),
    ("cut off", '{"modules": [', ["line 1, column 14: not JSON: Expecting value"]),
    ("no comma", '{\n "modules": []\n "title": ""}', ["line 3, column 2: not JSON: Expecting ',' delimiter"]),
    ("more after it", '{"modules": []} x', ["line 1, column 17: not JSON: Extra data"]),
    ("single quotes", "{'modules': []}", ["line 1, column 2: not JSON: Expecting property name"]),
    ("a line break in a string", '{"modules\n": []}', ["line 1, column 10: not JSON: Invalid control character at"]),
    ("two byte order marks", "\ufeff\ufeff" + GOOD, ["line 1, column 1: not JSON: Unexpected UTF-8 BOM"]),
    *(
        (name, GOOD.encode(name), ["not UTF-8 but UTF-16; save the file as UTF-8"])
        for name in ("UTF-16", "UTF-16-LE", "UTF-16-BE")
    ),
    ("Latin-1", b'{"modules": [{"title": "caf\xe9"}]}', ["byte 27: not UTF-8"]),
    ("a surrogate in UTF-8", b'{"title": "\xed\xa0\x80"}', ["byte 11: not UTF-8"]),
    ("NaN", '{"modules": NaN}', ["NaN is not JSON"]),
    ("infinity", '{"modules": -Infinity}', ["-Infinity is not JSON"]),
    ("a number of 5,000 digits", f'{{"n": {"1" * 5000}}}', ["not a catalog: holds a number of thousands of digits"]),
    ("deep lists", "[" * DEEP + "]" * DEEP, ["not a catalog: nested too deeply"]),
    ("deep objects", '{"modules":' * DEEP + "1" + "}" * DEEP, ["not a catalog: nested too deeply"]),
    ("a key twice", '{"modules": [], "modules": []}', ['the key "modules" stands twice in {"modules": []}']),
    ("a key twice, below", '{"modules": [{"id": 1, "id": 2}]}', ['the key "id" stands twice in {"id": 2}']),
    # Wrong in its form.
    ("a list", "[]", ["the file: is not an object"]),
    ("a string", '"modules"', ["the file: is not an object"]),
    ("null", "null", ["the file: is not an object"]),
    ("nothing in it", "{}", ["the file: has neither courses nor modules"]),
    ("modules null", '{"modules": null}', ["modules: is null"]),
    ("modules an object", '{"modules": {}}', ["modules: is not a list"]),
    ("modules a string", '{"modules": "x"}', ["modules: is not a list"]),
    ("title a number", text(title=1), ["title: is not a string"]),
    ("title null", text(title=None), ["title: is null"]),
    ("a module null", text(None), ["modules[0]: is null"]),
    ("a module a list", text(module(1), []), ["modules[1]: is not an object"]),
    ("a lesson null", both(None), ["modules[0].lessons[0]: is null"]),
    ("a lesson a string", both(lesson(1), "x"), ["modules[0].lessons[1]: is not an object"]),
    ("lessons null", text(module(1, lessons=None)), ["modules[0].lessons: is null"]),
    ("lessons an object", text(module(1, lessons={})), ["modules[0].lessons: is not a list"]),
    (
        "an empty module",
        text({}),
        ["modules[0].id: is missing", "modules[0].lessons: is missing", "modules[0].title: is missing"],
    ),
    ("an empty lesson", both({}), ["modules[0].lessons[0].id: is missing", "modules[0].lessons[0].title: is missing"]),
    (
        "a null in every place",
        text({"id": None, "title": None, "lessons": [dict.fromkeys(lesson(1, 2, isFree=True))]}),
        [
            "modules[0].id: is null",
            *(f"modules[0].lessons[0].{name}: is null" for name in sorted(lesson(1, 2, isFree=True))),
            "modules[0].title: is null",
        ],
    ),
    ("prerequisites a string", both(lesson(1, prerequisites=uuid4(2))), ["{}.prerequisites: is not a list"]),
    (
        "prerequisites of other types",
        both(lesson(1, prerequisites=[None, 1, [], V1])),
        [
            "{}.prerequisites[0]: is null",
            "{}.prerequisites[1]: 1 is not a UUID version 4",
            "{}.prerequisites[2]: [] is not a UUID version 4",
            f'{{}}.prerequisites[3]: "{V1}" is not a UUID version 4',
        ],
    ),
    ("published a number", both(lesson(1, published=1)), ["{}.published: 1 is neither true nor false"]),
    ("isFree a string", both(lesson(1, isFree="true")), ['{}.isFree: "true" is neither true nor false']),
    ("unknown keys", text(color=1), ["color: is not a key of the catalog file"]),
    (
        "unknown keys below",
        text(module(1, lesson(0x11, is_free=True), position=1)),
        [
            "modules[0].lessons[0].is_free: is not a key of the catalog file",
            "modules[0].position: is not a key of the catalog file",
        ],
    ),
    (
        "odd keys",
        text(**{"": 1, "$schema": 1, "a\nb": 1, "é": 1, "\ud800": 1}),
        [
            f"{name}: is not a key of the catalog file"
            for name in ('""', '"$schema"', '"a\\nb"', '"\\u00e9"', '"\\ud800"')
        ],
    ),
    # Ids and titles.
    *(
        (f"the id {id!r}", both(lesson(1, id=id)), [f"{{}}.id: {shown} is not a UUID version 4"])
        for id, shown in [
            (1, "1"),
            (True, "true"),
            ("", '""'),
            (V1, f'"{V1}"'),
            (uuid4(1).replace("-8", "-c"), f'"{uuid4(1).replace("-8", "-c")}"'),
            (uuid4(1).replace("-", ""), f'"{uuid4(1).replace("-", "")}"'),
            (f"{{{uuid4(1)}}}", f'"{{{uuid4(1)}}}"'),
            (f"{uuid4(1)}\n", f'"{uuid4(1)}\\n"'),
            ("x" * 58, f'"{"x" * 58}"'),
            ("x" * 59, f'"{"x" * 56}…'),
            ("x" * 100, f'"{"x" * 56}…'),
            ("\u0661" * 8, json.dumps("\u0661" * 8)),
        ]
    ),
    ("a module's id", text(module(1, id=V1)), [f'modules[0].id: "{V1}" is not a UUID version 4']),
    *(
        (f"the title {title!r:.12}", both(lesson(1, title=title)), [f"{{}}.title: {fault}"])
        for title, fault in [
            ("", "is empty"),
            (" \t\u3000", "is empty"),
            (5, "5 is not a string"),
            (["x"], '["x"] is not a string'),
            ("x" * 501, "is longer than 500 characters"),
            ("a\0", "holds a character that PostgreSQL cannot store (NUL, or half of a surrogate pair)"),
            ("\ud800", "holds a character that PostgreSQL cannot store (NUL, or half of a surrogate pair)"),
            ("a\udfff", "holds a character that PostgreSQL cannot store (NUL, or half of a surrogate pair)"),
        ]
    ),
    ("a module's title", text(module(1, title=" ")), ["modules[0].title: is empty"]),
    # Duplicates.
    (
        "two modules",
        text(module(1), module(2), module(1)),
        [f"modules[2].id: {uuid4(1)} is also the id at modules[0].id"],
    ),
    (
        "two lessons",
        both(lesson(2), lesson(2, id=uuid4(2).upper())),
        [f"modules[0].lessons[1].id: {uuid4(2)} is also the id at modules[0].lessons[0].id"],
    ),
    (
        "lessons of two modules",
        text(module(1, lesson(0x11)), module(2, lesson(0x21), lesson(0x11))),
        [f"modules[1].lessons[1].id: {uuid4(0x11)} is also the id at modules[0].lessons[0].id"],
    ),
    ("a lesson and its module", both(lesson(1)), [f"{{}}.id: {uuid4(1)} is also the id at modules[0].id"]),
    (
        "a lesson and a later module",
        text(module(1, lesson(2)), module(2)),
        [f"modules[1].id: {uuid4(2)} is also the id at modules[0].lessons[0].id"],
    ),
    # Prerequisites.
    ("unknown", both(lesson(2, 3)), [f"{{}}.prerequisites[0]: {uuid4(3)} is no lesson of this file"]),
    ("a module", both(lesson(2, 1)), [f"{{}}.prerequisites[0]: {uuid4(1)} is no lesson of this file"]),
    ("itself", both(lesson(2, 2)), ["{}.prerequisites[0]: the lesson is its own prerequisite"]),
    (
        "twice",
        both(lesson(2, prerequisites=[uuid4(0xA), uuid4(0xA).upper()]), lesson(0xA)),
        [f"{{}}.prerequisites[1]: {uuid4(0xA)} stands twice"],
    ),
    (
        "several at once",
        both(lesson(2, 2, 3, 4, 4), lesson(4, 9)),
        [
            "{}.prerequisites[0]: the lesson is its own prerequisite",
            f"{{}}.prerequisites[1]: {uuid4(3)} is no lesson of this file",
            f"{{}}.prerequisites[3]: {uuid4(4)} stands twice",
            f"modules[0].lessons[1].prerequisites[0]: {uuid4(9)} is no lesson of this file",
        ],
    ),
]


@pytest.mark.parametrize(("content", "faults"), [(c, f) for _, c, f in FAULTS], ids=[name for name, _, _ in FAULTS])
def test_a_file_is_refused_with_the_place_of_every_fault(tmp_path, content, faults):
    path = tmp_path / "catalog.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(catalog.CatalogError) as refused:
        catalog.read_file(path)
    lines = str(refused.value).splitlines()
    expected = [fault.replace("{}", "modules[0].lessons[0]") for fault in faults]
    # Compare only the beginning of json's message: the rest differs between versions of Python.
    cut = [line[: len(fault)] if ": not JSON: " in fault else line for line, fault in zip(lines, expected, strict=True)]
    assert cut == expected


def refused(modules: list[dict], path: Path) -> list[str]:
    path.write_text(json.dumps({"modules": modules}))
    with pytest.raises(catalog.CatalogError) as error:
        catalog.read_file(path)
    return str(error.value).splitlines()


def circle(*numbers: int) -> str:
    return "prerequisites go in a circle: " + " needs ".join(f'"Lesson {n:x}" ({uuid4(n)})' for n in numbers)


@pytest.mark.parametrize(
    ("needs", "circles"),
    [
        ({1: [2], 2: [1]}, [(1, 2, 1)]),
        ({1: [2], 2: [3], 3: [1]}, [(1, 2, 3, 1)]),
        ({1: [2], 2: [1], 3: [4], 4: [5], 5: [3]}, [(1, 2, 1), (3, 4, 5, 3)]),
        ({1: [], 2: [1, 3], 3: [1, 4], 4: [2, 1], 5: [2]}, [(2, 3, 4, 2)]),
    ],
)
def test_every_circle_of_prerequisites_is_named_all_the_way_round(tmp_path, needs, circles):
    lessons = [lesson(number, *needed) for number, needed in needs.items()]
    # The lessons are in two modules, so a circle may span modules.
    split = [module(0xF1, *lessons[:1]), module(0xF2, *lessons[1:])]
    for modules in ([module(0xF, *lessons)], split):
        assert sorted(refused(modules, tmp_path / "catalog.json")) == sorted(circle(*one) for one in circles)


@pytest.mark.parametrize("length", [19, 20, 30])
def test_of_a_long_circle_the_first_nineteen_and_the_last_are_named(tmp_path, length):
    ring = module(0xF1, *(lesson(n, n % length + 1) for n in range(1, length + 1)))
    end = f' needs "Lesson 1" ({uuid4(1)})'
    shown = circle(*range(1, 20)) + (end if length == 19 else f" needs … {length - 19} more …{end}")
    assert refused([ring], tmp_path / "catalog.json") == [shown]


def test_a_circle_of_10_000_lessons_is_refused(tmp_path):
    lessons = [lesson(n, n % 10_000 + 1) for n in range(1, 10_001)]
    shown = circle(*range(1, 20)) + f' needs … 9981 more … needs "Lesson 1" ({uuid4(1)})'
    assert refused([module(0xFFFFFF, *lessons)], tmp_path / "catalog.json") == [shown]


def test_more_than_20_faults_are_20_and_how_many_more(db, load, tmp_path):
    faults = [f"modules[0].lessons[{n}].title: is empty" for n in range(25)]
    file = module(1, *(lesson(0x100 + n, title="") for n in range(25)))
    shown = "\n".join([*faults[:20], "and 5 more"])
    assert load(file) == (1, "", f"Error: {tmp_path}/catalog.json is not loaded:\n{shown}\n")
    assert load(module(1, *file["lessons"][:20])) == (
        1,
        "",
        f"Error: {tmp_path}/catalog.json is not loaded:\n" + "".join(f"{fault}\n" for fault in faults[:20]),
    )


def test_a_fault_anywhere_and_nothing_is_written(db, load):
    load(module(1, lesson(0x11)))
    before = rows(db)
    for wrong in (lesson(0x12, title=""), lesson(0x11), lesson(0x12, 0x13), lesson(0x12, 0x12)):
        for variables in ({}, {"DRY_RUN": "1"}):
            code, out, err = load(module(1, title="New"), module(2, lesson(0x21), wrong, lesson(0x11)), **variables)
            assert (code, out) == (1, "")
            assert err.startswith("Error: ")
            assert rows(db) == before


@pytest.mark.parametrize("nested", range(900, 1000, 7))
def test_a_value_nested_to_the_edge_of_pythons_depth_is_refused_as_any_other(tmp_path, nested):
    path = tmp_path / "catalog.json"
    path.write_text('{"modules": [{"id": ' + "[" * nested + "]" * nested + "}]}")
    with pytest.raises(catalog.CatalogError, match=r"is not a UUID version 4|^not a catalog: nested too deeply$"):
        catalog.read_file(path)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(database_url, tmp_path):
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "file").write_text(GOOD)
    for name, reason in [
        ("absent.json", "No such file or directory"),
        ("", "Is a directory"),
        ("round", "Too many levels of symbolic links"),
        ("file/catalog.json", "Not a directory"),
        ("x" * 300, "File name too long"),
    ]:
        path = tmp_path / name
        text = f"Error: {path} is not loaded:\nthe file cannot be read: {reason}\n"
        assert run(database_url, "load-catalog", FILE=str(path)) == (1, "", text)


def test_a_file_must_be_given(database_url):
    missing = (1, "", "Error: FILE is not given; say which catalog: FILE=<path>\n")
    assert run(database_url, "load-catalog") == run(database_url, "load-catalog", FILE="") == missing
    directory = "Error: . is not loaded:\nthe file cannot be read: Is a directory\n"
    assert run(database_url, "load-catalog", FILE=".") == (1, "", directory)


def test_a_file_over_the_bound_is_refused_and_one_at_it_is_read(tmp_path):
    path = tmp_path / "catalog.json"
    path.write_text(GOOD)
    with path.open("ab") as file:
        file.truncate(2**40)
    for large in (path, Path("/dev/zero")):
        with pytest.raises(catalog.CatalogError, match=r"^the file is larger than 32 MB$"):
            catalog.read_file(large)
    path.write_text(GOOD + " " * (catalog.MAX_FILE_BYTES - len(GOOD)))
    assert len(catalog.read_file(path)["lessons"]) == 1


def test_a_database_without_the_tables_is_told_of_in_one_line(new_database):
    lacking = "Error: the database lacks tables; apply the migrations with: make migrate\n"
    assert run(new_database(), "load-catalog", str(CURRICULA / "odin.json")) == (1, "", lacking)


def test_a_title_that_the_terminal_cannot_show_does_not_make_a_load_fail(db, database_url, load, tmp_path):
    load(module(1, lesson(0x11, title="😀")))
    path = tmp_path / "empty.json"
    path.write_text(text())
    more = "unpublished: 1 lessons with 0 completions, all kept", '  "\\U0001f600": 0 completions'
    loaded = ended(spawn(database_url, "load-catalog", str(path), PYTHONIOENCODING="latin-1"))
    assert loaded == report((0, 0, 0), (0, 0, 0, 0, 1), (0, 0), *more)


# Large, at once, and killed.


def test_a_catalog_of_10_000_lessons_loads_and_loads_again(db, database_url, tmp_path):
    numbers = range(1, 10_001)
    # 500 modules of 20 lessons. Each lesson needs the one before it. Every second one also needs the lesson at the same
    # place of the module before.
    needed = {n: [need for need in (n - 1, n - 20 if n % 2 else 0) if need > 0] for n in numbers}
    file = [module(0xF000000 + m, *(lesson(n, *needed[n]) for n in numbers[m * 20 : m * 20 + 20])) for m in range(500)]
    needs = sum(map(len, needed.values()))
    assert needs > 14_000
    path = tmp_path / "catalog.json"
    path.write_text(text(*file))
    first = report((500, 500, 0), (10_000, 10_000, 0, 0, 0), (needs, 0))
    assert run(database_url, "load-catalog", str(path)) == first
    counts = "select (select count(*) from lessons where published), (select count(*) from lesson_prerequisites)"
    assert db.execute(counts).fetchone() == (10_000, needs)
    assert run(database_url, "load-catalog", str(path)) == report((500, 0, 0), (10_000, 0, 0, 0, 0))


def wait_for_blocked(db: psycopg.Connection, *, by: str) -> int:
    """Wait until a session of this database waits for a lock in the statement file `by`. Return its process id."""
    query = (
        "select pid from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock' and strpos(query, %s) > 0"
    )
    deadline = time.monotonic() + 60
    while not (row := db.execute(query, [f"/* admin/{by}.sql */"]).fetchone()):
        assert time.monotonic() < deadline, f"nobody waits for a lock in {by}.sql"
    return int(row[0])


@contextmanager
def holding(database_url: str, query: str) -> Iterator[psycopg.Connection]:
    """Yield another connection, inside a transaction in which it has executed the query."""
    with closing(psycopg.connect(database_url)) as other:
        other.execute(query)
        yield other


ROW = f"select from lessons where id = '{uuid4(0x12)}' for update"


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[list]:
    """Run `call` in a thread while the block runs. After the block, the list has its result."""
    results: list = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    yield results
    thread.join(60)
    assert results, "the call in the background did not end"


def test_a_load_waits_for_the_load_before_it_and_sees_what_that_wrote(db, database_url, load):
    load(module(1, lesson(0x11), lesson(0x12)))
    lock = "lock table modules, lessons, lesson_prerequisites in share row exclusive mode"
    second = module(1, lesson(0x11, title="Second"))
    with holding(database_url, lock) as first, in_background(lambda: load(second)) as answers:
        wait_for_blocked(db, by="catalog_lock")
        first.execute("update lessons set title = 'First', published = false")
        first.commit()
    assert answers == [report((1, 0, 0), (1, 0, 1, 0, 0))]
    assert [row[2:5] for row in lessons(db)] == [("Second", 1, True), ("First", 2, False)]


def test_of_two_loads_at_once_the_later_one_is_what_the_catalog_is(db, database_url, tmp_path):
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for n, path in enumerate(files):
        path.write_text(text(module(1, *(lesson(0x100 + i, title=f"{n}") for i in range(200)))))
    answers = [ended(process) for process in [spawn(database_url, "load-catalog", str(path)) for path in files]]
    assert sorted(answers) == sorted([report((1, 1, 0), (200, 200, 0, 0, 0)), report((1, 0, 0), (200, 0, 200, 0, 0))])
    last = str(answers.index(report((1, 0, 0), (200, 0, 200, 0, 0))))
    assert {row[2] for row in lessons(db)} == {last}


def test_learners_read_and_mark_while_a_load_has_its_locks(api: FlaskClient, db, database_url, load):
    load(module(1, lesson(0x11), lesson(0x12), lesson(0x13)))
    add_course(db, 3, 1)
    add_user(db)
    file = module(2, lesson(0x11, title="Moved")), module(1, lesson(0x12, title="Waits"), lesson(0x13, 0x11))
    with holding(database_url, ROW) as other, in_background(lambda: load(*file)) as answers:
        wait_for_blocked(db, by="catalog_lessons")
        assert ok(mark(api, 0x11))["overall"] == {"percent": 33, "completedCount": 1, "totalCount": 3}
        assert ok(mark(api, 0x13))["overall"] == {"percent": 66, "completedCount": 2, "totalCount": 3}
        assert ok(unmark(api, 0x13))["overall"] == {"percent": 33, "completedCount": 1, "totalCount": 3}
        for path in reads():
            get(api, path)
        other.commit()
    assert answers[0][0] == 0
    modules = get(api, "modules")["modules"]
    assert [one["percent"] for one in modules] == [100, 0]


@pytest.mark.parametrize(
    ("held", "by"),
    [
        ("lock table lessons", "catalog_lock"),
        (ROW, "catalog_lessons"),
        (f"select from lessons where id = '{uuid4(0x14)}' for update", "catalog_unpublish"),
        ("select from lesson_prerequisites for update", "catalog_prerequisites"),
    ],
)
def test_a_load_that_is_killed_midway_leaves_nothing_changed(db, database_url, tmp_path, held, by):
    add_module(db, 1, 0x11, 0x12, 0x13, 0x14)
    require(db, 0x13, 0x11)
    add_user(db)
    complete(db, 0x11, 0x14)
    before = rows(db)
    path = tmp_path / "catalog.json"
    moved = module(2, lesson(0x11), lesson(0x12, 0x11), lesson(0x13), lesson(0x15))
    path.write_text(text(moved, module(1, title="New")))
    with holding(database_url, held) as other:
        loading = spawn(database_url, "load-catalog", str(path))
        with closing(psycopg.connect(database_url, autocommit=True)) as watching:
            session = wait_for_blocked(watching, by=by)
            loading.send_signal(signal.SIGKILL)
            assert ended(loading) == (-signal.SIGKILL, "", "")
            other.rollback()
            deadline = time.monotonic() + 60
            while watching.execute("select from pg_stat_activity where pid = %s", [session]).fetchone():
                assert time.monotonic() < deadline, "the killed client's session does not end"
    assert rows(db) == before
    assert ended(spawn(database_url, "load-catalog", str(path)))[0] == 0
    assert [row[1] for row in modules(db)] == ["New", "Module 2"]
