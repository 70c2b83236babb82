"""make progress: what a learner sees, for those who help them. It says what the calls say."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import pytest

from tests.conftest import ROOT
from tests.pages import block
from tests.proof.test_model import HEADERS
from tests.proof.test_worlds import build, draw
from tests.test_cli import NOBODY, clean, make, run
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    complete,
    require,
    uuid4,
)

Sections = dict[str, list[list[str]]]


def printed(database_url: str, user_id: str = LEARNER) -> tuple[list[str], Sections]:
    """Return the lines of make progress, and the cells of each list by its heading, without titles."""
    code, out, err = run(database_url, "progress", USER=user_id)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    sections: Sections = {}
    for line in lines:
        assert sum(2 if east_asian_width(one) in "WF" else 1 for one in line) <= 100
        if line.endswith(":"):
            cells = sections.setdefault(line, [])
        elif line.startswith("  ") and sections:
            cells.append(re.split(r"  +", re.sub(r' *".*', "", line).strip()))
    return lines, sections


def counts(document: dict[str, Any]) -> list[str]:
    """Return the cells with the counts of an answer."""
    locked = [f"{document['lockedCount']} locked"] if document["lockedCount"] else []
    return [f"{document['completedCount']} of {document['totalCount']}", f"{document['percent']} %", *locked]


def expected(read) -> Sections:
    """Return the lists that follow from the answers of the calls."""
    outline, courses = read("outline"), read("courses")["courses"]
    lessons = [lesson for module in outline["modules"] for lesson in module["lessons"]]
    states = {lesson["lessonId"]: lesson["state"] for lesson in lessons}
    course_rows = {course["courseId"]: [course["courseId"], *counts(course)] for course in courses}
    rows = []
    for module in outline["modules"]:
        if module["courseId"] in course_rows:
            rows.append(course_rows.pop(module["courseId"]))
        rows.append([module["moduleId"], *counts(module)])
    assert not course_rows
    following = {id: read(f"courses/{id}")["next"]["lessonId"] for id in (course["courseId"] for course in courses)}
    completed = sorted((one["completedAt"], place, one) for place, one in enumerate(lessons) if one["completedAt"])
    locked = []
    for lesson in lessons:
        if lesson["state"] == "locked":
            locked.append([lesson["lessonId"]])
            locked += ([id, states.get(id, "no access")] for id in lesson["prerequisites"])
    return {
        "courses and modules:" if courses else "modules:": rows,
        "next in each course that is begun:": [
            [course["courseId"], following[course["courseId"]]]
            for course in courses
            if course["completedCount"] and following[course["courseId"]]
        ],
        "completed last:": [[at, one["lessonId"]] for at, _, one in reversed(completed[-10:])]
        + ([[f"and {len(completed) - 10} more"]] if len(completed) > 10 else []),
        "locked, each with the lessons to complete first:": locked,
    }


@pytest.mark.parametrize("seed", range(8))
def test_it_says_what_the_calls_say(api, db, database_url, seed):
    catalog, learners = draw(seed)
    build(db, catalog, learners)
    assert run(database_url, "complete")[0] == 0
    for id, learner in learners.items():
        answers: dict[str, Any] = {}

        def read(path, id=id, answers=answers):
            if path not in answers:
                answers[path] = api.get(f"/api/progress/{path}", headers=HEADERS[id]).json
            return answers[path]

        lines, sections = printed(database_url, id)
        assert lines[0] == f"learner {id}"
        access = run(database_url, "access", USER=id)[1]
        assert lines[1].split(":")[0] == access.split(":")[0]
        completions = [
            [row["completedAt"], kind, row[f"{kind}Id"]]
            for kind in ("module", "course")
            for row in read("completions")[f"{kind}s"]
        ]
        wanted: Sections = {"completed once as a whole:": completions}
        shown: set[str] = set()
        if read("outline").get("code") == "not_enrolled":
            assert "the calls of progress answer 403 not_enrolled" in lines
            assert not any(line.startswith(("overall", "next")) for line in lines)
        else:
            wanted |= expected(read)
            assert f"overall: {', '.join(counts(read('outline')['overall']))}" in lines
            following = read("next")["lessonId"]
            assert any(line.startswith(f"next: {following or 'nothing is left'}") for line in lines)
            shown = {lesson["lessonId"] for lesson in read("lessons")["lessons"]}
        uncounted = sections.pop("completed, but not counted:", [])
        assert sections == {heading: rows for heading, rows in wanted.items() if rows}
        # The latest first, to the microsecond.
        hidden = sorted(learner.completed.keys() - shown)
        hidden.sort(key=learner.completed.__getitem__, reverse=True)
        assert [[name, why] for _, name, why in uncounted] == [
            [name, "no access" if catalog.lessons[name].published else "unpublished"] for name in hidden
        ]


def test_the_example_of_the_page_is_what_it_prints(db, database_url):
    add_user(db, access=None)
    db.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    add_module(db, 1, 0x11, 0x12, is_free=True)
    add_lesson(db, 1, 0x13, published=False, position=3)
    add_module(db, 2, 0x21, 0x22)
    add_module(db, 4, 0x41, 0x42, is_free=True)
    add_course(db, 3, 1, 2)
    require(db, 0x12, 0x21, 0x42)
    require(db, 0x42, 0x41)
    complete(db, 0x11, at="2026-01-03T09:30:00Z")
    complete(db, 0x13, at="2026-01-02T10:00:00Z")
    complete(db, 0x22, at="2026-01-01T11:12:13.456Z")
    titles = {1: "Basics", 2: "Functions", 3: "JavaScript", 4: "Welcome"}
    titles |= {0x11: "Variables", 0x12: "Closures", 0x13: "Numbers", 0x21: "Parameters", 0x22: "Return values"}
    titles |= {0x41: "Set up your computer", 0x42: "Your first program"}
    for number, title in titles.items():
        for table in ("courses", "modules", "lessons"):
            db.execute(f"update {table} set title = %s where id = %s", [title, uuid4(number)])
    db.execute("insert into module_completions values (%s, %s, '2026-01-01T11:12:13.456Z')", [LEARNER, uuid4(2)])
    db.execute("insert into course_enrollments values (%s, %s, 'pi_1', '2026-01-02T00:00:00Z')", [LEARNER, uuid4(3)])
    db.execute("update users set email = 'learner@example.org'")
    db.execute(
        "insert into events (user_id, webhook_id, type, data, created_at, next_attempt_at, delivered_at, given_up_at)"
        " values (%(id)s, 'msg_1', 'lesson.completed', '{}', '2025-12-01T00:00:00Z', null, now(), null),"
        " (%(id)s, 'msg_5', 'lesson.completed', '{}', '2025-12-02T00:00:00Z', null, now(), null),"
        " (%(id)s, 'msg_2', 'lesson.completed', '{}', '2026-01-01T11:12:13.456Z', null, null, now()),"
        " (%(id)s, 'msg_3', 'lesson.completed', '{}', '2026-01-02T10:00:00Z', now(), null, null),"
        " (%(id)s, 'msg_4', 'lesson.completed', '{}', '2026-01-03T09:30:00Z', null, null, null)",
        {"id": LEARNER},
    )
    told = block("text", f"learner {LEARNER}")
    assert run(database_url, "progress", USER=LEARNER) == (0, told, "")
    assert make(database_url, "progress", f"USER={LEARNER}") == (0, told, "")


def test_a_learner_with_nothing_and_nobody(db, database_url):
    add_user(db)
    add_user(db, FREE_LEARNER, access=None)
    empty = "overall: 0 of 0, 0 %\nnext: nothing is left\n"
    assert run(database_url, "progress", USER=LEARNER)[1].endswith(f"enrollment: none\n{empty}")
    not_enrolled = "enrollment: none\nthe calls of progress answer 403 not_enrolled\n"
    assert run(database_url, "progress", USER=FREE_LEARNER)[1].endswith(not_enrolled)
    assert run(database_url, "progress", USER=STRANGER) == (1, "", NOBODY)
    assert run(database_url, "progress") == (1, "", "Error: USER is not given; say which learner: USER=<id>\n")


def test_a_full_disk_is_told_in_one_line_and_a_reader_who_has_enough_in_none(db, database_url):
    add_user(db)
    command = [sys.executable, "-m", "app.cli", "progress", LEARNER]
    environ = clean(database_url)
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w") as full, os.fdopen(writer, "w") as closed:
        tasks = [
            subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.PIPE, text=True)
            for output in (full, closed)
        ]
        told = [(task.communicate(timeout=60)[1], task.returncode) for task in tasks]
    assert told == [("Error: standard output: No space left on device\n", 1), ("", 1)]


def test_titles_of_any_form_stay_on_their_line(db, database_url):
    add_user(db)
    add_module(db, 1, 0x11, title="第" * 70)
    add_module(db, 2, 0x21, title="two\nlines " * 30)
    for column in ("courses", "modules"):
        db.execute(f"update {column} set title = 'x' || repeat('第', 60)")
    add_course(db, 3, 1)
    db.execute("update courses set title = repeat('a long title ', 30)")
    complete(db, 0x11)
    lines, sections = printed(database_url)
    assert sum("…" in line for line in lines) == 5
    assert sections["courses and modules:"] == [
        [uuid4(2), "0 of 1", "0 %"],
        [uuid4(3), "1 of 1", "100 %"],
        [uuid4(1), "1 of 1", "100 %"],
    ]


def test_a_large_catalog_is_told_in_few_lines(db, database_url):
    """Two hundred modules of fifty lessons. Each lesson needs the one before it, but for the first of each module."""
    add_user(db)
    db.execute(
        """
        create temporary table numbered as
        select n, (lpad(to_hex(n), 8, '0') || '-0000-4000-8000-000000000000')::uuid as id
        from generate_series(1, 10000) as n;
        insert into modules (id, title, position) select id, 'Module', n from numbered where n <= 200;
        insert into lessons (id, module_id, title, position, published)
        select lesson.id, module.id, 'Lesson', lesson.n, true
        from numbered as lesson inner join numbered as module on module.n = (lesson.n + 49) / 50;
        insert into lesson_prerequisites
        select lesson.id, before.id
        from numbered as lesson inner join numbered as before on before.n = lesson.n - 1
        where lesson.n % 50 <> 1;
        drop table numbered
        """
    )
    complete(db, *range(101, 120), 151)
    lines, sections = printed(database_url)
    assert sections["modules:"] == [
        [uuid4(3), "19 of 20", "95 %", "30 locked"],
        [uuid4(4), "1 of 2", "50 %", "48 locked"],
        ["and 198 modules that are not begun"],
    ]
    # Of each module the first that is locked, since those behind it wait for it. The modules that are begun come first.
    [*locked, rest] = sections["locked, each with the lessons to complete first:"]
    assert rest == ["and 9680 more"]
    assert locked[:4] == [[uuid4(121)], [uuid4(120), "available"], [uuid4(153)], [uuid4(152), "available"]]
    assert locked[4:6] == [[uuid4(2)], [uuid4(1), "available"]]
    assert len(locked) == 200
    assert len(lines) < 250
