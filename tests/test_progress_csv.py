"""make import-progress and make export-progress (contract §8): what a file stores, and every file that is refused."""

import csv
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from app.database import statements
from app.database.statements import STATEMENTS
from app.tasks import progress_csv
from app.tasks.completions import write_missing
from app.user_ids import learner_id
from tests.test_cli import Answer, make, run, spawn
from tests.test_concurrency import in_background, lock_held, wait_until_blocked
from tests.world import (
    LEARNER,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    bearer,
    complete,
    completions,
    get,
    mark,
    ok,
    uuid4,
)

HEADER = "user_id,lesson_id,completed_at\n"
OTHER = uuid4(0xB0B)
ONE, TWO, THREE = uuid4(0x11), uuid4(0x12), uuid4(0x21)
JANUARY, MARCH = "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"
Load = Callable[..., Answer]


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    """A learner with full access and one without, a course of two modules, and an unpublished lesson."""
    add_user(db)
    add_user(db, STRANGER, access=None)
    add_module(db, 1, 0x11, 0x12)
    add_module(db, 2, 0x21)
    add_lesson(db, 2, 0x22, published=False)
    add_course(db, 3, 1, 2)
    return db


@pytest.fixture
def load(database_url: str, tmp_path: Path) -> Load:
    """Return a function that imports a file with these rows below the usual header, or with the whole text given."""

    def load(rows: str | bytes, header: str = HEADER, **variables: str) -> Answer:
        path = tmp_path / "progress.csv"
        path.write_bytes(rows if isinstance(rows, bytes) else (header + rows).encode())
        code, out, err = run(database_url, "import-progress", FILE=str(path), **variables)
        return code, out.replace(f"{tmp_path}/", ""), err.replace(f"{tmp_path}/", "")

    return load


def report(new: int, *lines: str, stored: int = 0, repeated: int = 0, skipped: int = 0, dry: bool = False) -> Answer:
    counts = f"{new} new, {stored} stored already, {repeated} repeated, {skipped} skipped"
    end = "dry run: nothing was written" if dry else "imported"
    return 0, "\n".join([f"rows: {new + stored + repeated + skipped} in the file; {counts}", *lines, end, ""]), ""


def written(modules: int = 0, courses: int = 0) -> str:
    return f"completions written: {modules} of modules, {courses} of courses"


def refused(*faults: str) -> Answer:
    return 1, "", "\n".join(["Error: progress.csv is not imported:", *faults, ""])


def stored(db: psycopg.Connection) -> set[tuple[str, str, str]]:
    return {(user_id, lesson_id, at.isoformat()) for user_id, lesson_id, at in completions(db)}


def completed(db: psycopg.Connection) -> list[tuple[str, datetime]]:
    """Return the completed modules and courses."""
    return db.execute(
        "select module_id::text, completed_at at time zone 'UTC' from module_completions"
        " union all select course_id::text, completed_at at time zone 'UTC' from course_completions order by 1, 2"
    ).fetchall()


def test_columns_stand_in_any_order_among_others_and_a_row_may_have_line_breaks(world, load):
    text = "\ufeffnote,completed_at,lesson_id,user_id\r\n"
    text += f'"two\r\nlines, ""quoted""",2026-01-02T03:04:05.678999+01:00,{ONE.upper()},{LEARNER.upper()}\r\n'
    text += f"\r\nÉtudes,2026-01-02t03:04:05z,{THREE},{STRANGER}"
    assert load(text.encode()) == report(2, written(1))
    assert stored(world) == {
        (LEARNER, ONE, "2026-01-02T02:04:05.678000"),
        (STRANGER, THREE, "2026-01-02T03:04:05"),
    }


def test_a_row_without_a_time_is_now_and_five_minutes_ahead_are_now_too(world, load):
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(milliseconds=1)
    ahead = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    assert load(f"{LEARNER},{ONE},\n{LEARNER},{TWO},{ahead}\n") == report(2, written(1))
    for _, _, at in completions(world):
        assert before <= at <= datetime.now(UTC).replace(tzinfo=None)
        assert at.microsecond % 1000 == 0


def test_what_is_stored_keeps_its_time_and_of_two_rows_the_earlier_stands(world, load):
    complete(world, 0x11, at=MARCH)
    rows = f"{LEARNER},{ONE},{JANUARY}\n{LEARNER},{TWO},\n{LEARNER},{TWO},{MARCH}\n{LEARNER.upper()},{TWO},{JANUARY}\n"
    assert load(rows) == report(1, written(1), stored=1, repeated=2)
    assert stored(world) == {(LEARNER, ONE, "2026-03-01T00:00:00"), (LEARNER, TWO, "2026-01-01T00:00:00")}
    world.execute("delete from module_completions")
    # Again: nothing is new. A completion that is missing is written, also if its lessons were stored before.
    assert load(rows) == report(0, written(1), stored=2, repeated=2)


def test_completions_follow_also_from_what_was_stored_before_and_no_event(world, load):
    complete(world, 0x21, at=MARCH)
    complete(world, 0x11, user_id=STRANGER)
    assert load(f"{LEARNER},{ONE},{JANUARY}\n{LEARNER},{TWO},{JANUARY}\n") == report(2, written(2, 1))
    january, march = datetime(2026, 1, 1), datetime(2026, 3, 1)
    assert completed(world) == [(uuid4(1), january), (uuid4(2), march), (uuid4(3), march)]
    assert world.execute("select count(*) from events").fetchone() == (0,)
    # The rows of one import can be found again.
    tables = ("progress", "module_completions", "course_completions")
    query = " intersect ".join(f"select created_at from {table}" for table in tables)
    assert len(world.execute(query.encode()).fetchall()) == 1


def test_access_locks_and_publication_are_not_asked(world, load):
    world.execute("insert into lesson_prerequisites (lesson_id, prerequisite_id) values (%s, %s)", [TWO, ONE])
    assert load(f"{STRANGER},{TWO},\n{STRANGER},{uuid4(0x22)},\n") == report(2, written())


def test_every_fault_is_named_by_the_line_where_its_row_begins(world, load):
    far = (datetime.now(UTC) + timedelta(minutes=6)).isoformat()
    good = f'{LEARNER},{ONE},"{JANUARY}"'
    rows = [
        f'"{LEARNER}\n",{ONE},',
        f",{ONE},",
        f"ann@example.org,{ONE},",
        f"{LEARNER},{uuid4(0x11).replace('-4', '-1')},",
        f"{LEARNER},{ONE},yesterday",
        f"{LEARNER},{ONE},1969-12-31T23:59:59Z",
        f"{LEARNER},{ONE},{far}",
        f"{LEARNER},{ONE}",
        f"{good},x",
        "",
        good,
        f"{uuid4(0xBAD)},{uuid4(0xBAD1)},",
        f"{LEARNER},{uuid4(0xBAD2)},{JANUARY}",
        f"{uuid4(0xBAD)},{ONE},{JANUARY}",
    ]
    data = (HEADER + "\n".join(rows)).encode() + f"\n{LEARNER},{ONE},\xe9\n".encode("latin-1")
    not_a_uuid = "user_id: not a UUID, as 8-4-4-4-12 hexadecimal digits"
    not_a_time = "Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."
    faults = [
        f"line 2: {not_a_uuid}",
        f"line 4: {not_a_uuid}",
        f"line 5: {not_a_uuid}",
        "line 6: lesson_id: not a UUID version 4, as 8-4-4-4-12 hexadecimal digits",
        f"line 7: completed_at: {not_a_time}",
        "line 8: completed_at: Must not be before 1970-01-01T00:00:00Z.",
        "line 9: completed_at: Must not be more than five minutes in the future.",
        "line 10: 2 columns, and the header has 3",
        "line 11: 4 columns, and the header has 3",
        f"line 14: there is no learner {uuid4(0xBAD)} and there is no lesson {uuid4(0xBAD1)}",
        f"line 15: there is no lesson {uuid4(0xBAD2)}",
        f"line 16: there is no learner {uuid4(0xBAD)}",
        "line 17: not UTF-8",
    ]
    assert load(data) == refused(*faults)
    assert load(data, DRY_RUN="1") == refused(*faults)
    assert stored(world) == set()
    lines = [f"  {fault}" for fault in faults]
    assert load(data, SKIP="1", DRY_RUN="1") == report(1, *lines, skipped=13, dry=True)
    assert stored(world) == set()
    assert load(data, SKIP="1") == report(1, *lines, written(), skipped=13)
    assert stored(world) == {(LEARNER, ONE, "2026-01-01T00:00:00")}


def test_twenty_faults_are_named_in_the_order_of_the_file_and_the_others_counted(world, load):
    rows = [f"{LEARNER},{uuid4(0xBAD)},\n", f"{LEARNER},x,\n"] * 15
    code, out, err = load("".join(rows))
    assert (code, out) == (1, "")
    assert [line.partition(":")[0] for line in err.splitlines()[1:]] == [
        *(f"line {line}" for line in range(2, 22)),
        "and 10 more",
    ]


def test_the_first_faults_are_those_of_the_first_lines_in_whatever_order_they_are_found(world):
    with world.transaction(force_rollback=True):
        world.execute(STATEMENTS["admin/import_begin"].query)
        for line in range(30, 0, -1):
            world.execute("insert into imported values (%s, %s, %s)", [line, uuid4(100 - line), ONE])
        missing = statements.array(uuid4(100 - line) for line in range(1, 31))
        rows = psycopg.RawCursor(world).execute(STATEMENTS["admin/import_faults"].query, [missing, "20"]).fetchall()
    assert rows == [(line, uuid4(100 - line), None, 30) for line in range(1, 21)]


def test_a_dry_run_locks_nobody_and_writes_nothing(world, database_url, load):
    complete(world, 0x11, 0x12)
    before = stored(world)
    with closing(psycopg.connect(database_url)) as other:
        other.execute("select from users for update")
        other.execute("lock table progress in share mode")
        rows = [(LEARNER, ONE), (LEARNER, TWO), (LEARNER, THREE), (LEARNER, THREE), (STRANGER, ONE)]
        data = "".join(f"{user_id},{lesson_id},\n" for user_id, lesson_id in rows)
        assert load(data, DRY_RUN="1") == report(2, stored=2, repeated=1, dry=True)
    assert stored(world) == before


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "the file is empty; the first line of a CSV file names its columns"),
        (b"\n", "the file is empty; the first line of a CSV file names its columns"),
        (HEADER.encode("utf-16"), "line 1: not UTF-8; save the file as UTF-8"),
        (
            b"user_id;lesson_id;completed_at\n",
            "line 1: commas must separate the columns, and not semicolons; save the file with commas",
        ),
        (
            b"user_id\tlesson_id\tcompleted_at\n",
            "line 1: commas must separate the columns, and not tabs; save the file with commas",
        ),
        (b"user\n", 'line 1: none of its 1 columns is named "user_id"; USER_COLUMN= names the column'),
        (b"user_id,Lesson_id\n", 'line 1: none of its 2 columns is named "lesson_id"; LESSON_COLUMN= names the column'),
        (
            b"user_id,lesson_id,completed_at,completed_at\n",
            'line 1: two columns are named "completed_at"; TIME_COLUMN= names the column',
        ),
        (HEADER.encode() + b'\n"a"b,,\n', "line 3: not CSV from here on: ',' expected after '\"'"),
        (HEADER.encode() + b'a,b,c\n"a\n,,\n', "line 3: not CSV from here on: unexpected end of data"),
        (
            HEADER.encode() + b"x" * (progress_csv.MAX_LINE_CHARACTERS + 1),
            "line 2: not CSV from here on: a line is longer than 1048576 characters",
        ),
    ],
)
def test_a_fault_of_the_file_as_a_whole_is_one_line_and_cannot_be_skipped(world, load, data, fault):
    assert load(data, SKIP="1") == (1, "", f"Error: progress.csv: {fault}\n")


def test_a_file_must_be_given_and_readable(world, database_url, tmp_path):
    for task in ("import-progress", "export-progress"):
        given = "Error: FILE is not given; say which CSV file: FILE=<path>\n"
        assert run(database_url, task) == run(database_url, task, FILE="") == (1, "", given)
    missing = tmp_path / "missing.csv"
    read = "cannot be read: No such file or directory"
    assert run(database_url, "import-progress", FILE=str(missing)) == (1, "", f"Error: {missing} {read}\n")
    folder = (1, "", f"Error: {tmp_path} cannot be read: Is a directory\n")
    assert run(database_url, "import-progress", FILE=str(tmp_path)) == folder


def test_a_header_alone_imports_nothing(world, load):
    assert load("") == report(0, written())


# What other platforms export: other columns, learners by e-mail address, lessons by titles.

PLATFORM = "Email,Lecture,Completed\nann@example.org,Loops,{}\nbob@example.org,Été,{}\n"
COLUMNS = {"USER_COLUMN": "Email", "LESSON_COLUMN": "Lecture", "TIME_COLUMN": "Completed"}


@pytest.fixture
def mapped(load: Load, tmp_path: Path) -> Load:
    """Return a function that imports PLATFORM with these two mapping files."""

    def load_mapped(users: str, lessons: str, **variables: str) -> Answer:
        (tmp_path / "users.csv").write_text(users)
        (tmp_path / "lessons.csv").write_text(lessons)
        files = {"USERS": str(tmp_path / "users.csv"), "LESSONS": str(tmp_path / "lessons.csv")}
        answer = load(PLATFORM.format(JANUARY, MARCH).encode(), **files, **COLUMNS, **variables)
        assert "@" not in "".join(answer[1:])
        return answer

    return load_mapped


USERS = f"email,id\nann@example.org,{LEARNER}\nbob@example.org,{STRANGER.upper()}\n"
LESSONS = f"theirs,ours\nLoops,{ONE}\nÉté,{TWO}\nUnused,{uuid4(0xBAD)}\n"


def test_columns_are_named_and_ids_are_mapped(world, mapped):
    assert mapped(USERS, LESSONS) == report(2, written())
    assert stored(world) == {(LEARNER, ONE, "2026-01-01T00:00:00"), (STRANGER, TWO, "2026-03-01T00:00:00")}


def test_what_is_not_in_a_mapping_is_a_fault_and_no_address_is_shown(world, mapped):
    users, lessons = USERS.replace("bob@", "Bob@"), LESSONS.replace("Loops", " Loops")
    assert mapped(users, lessons) == refused(
        "line 2: Lecture: not in LESSONS=lessons.csv", "line 3: Email: not in USERS=users.csv"
    )


def test_a_mapping_with_faults_is_refused_also_with_skip(world, mapped):
    users = (
        USERS + f"\n,{LEARNER}\nann@example.org,{STRANGER}\nann@example.org,{LEARNER}\nx@example.org,eve@example.org\n"
    )
    faults = [
        "line 5: their id is empty",
        "line 6: their id is that of an earlier line, and ours is another",
        "line 8: not a UUID, as 8-4-4-4-12 hexadecimal digits",
    ]
    assert mapped(users, LESSONS, SKIP="1") == (
        1,
        "",
        "\n".join(["Error: USERS=users.csv is not read:", *faults, ""]),
    )
    assert mapped(USERS, "theirs,ours\n", SKIP="1") == (
        1,
        "",
        "Error: LESSONS=lessons.csv: nothing is below the header\n",
    )
    commas = "line 1: commas must separate the columns, and not semicolons; save the file with commas"
    assert mapped("email;id\n", LESSONS) == (1, "", f"Error: USERS=users.csv: {commas}\n")
    assert mapped("email\n", LESSONS) == (
        1,
        "",
        "Error: USERS=users.csv: line 1: 1 columns, and not two: their id and ours\n",
    )
    assert stored(world) == set()


def test_ids_of_another_form_are_those_of_the_sessions(world, load):
    namespace = uuid4(0xABC)
    other = learner_id("clx1a2b3c", UUID(namespace))
    add_user(world, str(other))
    rows = f"clx1a2b3c,{ONE},{JANUARY}\n{LEARNER},{ONE},{JANUARY}\n"
    assert load(rows, AUTH_USER_ID_NAMESPACE=namespace) == report(2, written())
    assert {user_id for user_id, _, _ in stored(world)} == {LEARNER, other}
    fault = "line 2: user_id: not a text of 1 to 255 characters"
    assert load(f",{ONE},\n", AUTH_USER_ID_NAMESPACE=namespace) == refused(fault)


def test_an_import_waits_for_the_write_before_it_and_sees_it(world, database_url, load):
    with lock_held(database_url) as other:
        other.execute("insert into progress values (%s, %s, %s)", [LEARNER, TWO, MARCH])
        with in_background(lambda: load(f"{LEARNER},{ONE},{JANUARY}\n{LEARNER},{TWO},{JANUARY}\n")) as answers:
            wait_until_blocked(world)
            other.commit()
    assert answers == [report(1, written(1), stored=1)]
    assert completed(world) == [(uuid4(1), datetime(2026, 3, 1))]


@pytest.mark.parametrize("skip", [False, True])
def test_a_learner_who_is_deleted_during_an_import_is_a_fault(world, database_url, load, skip):
    with closing(psycopg.connect(database_url)) as other:
        other.execute("delete from users where id = %s", [STRANGER])
        rows = f"{LEARNER},{ONE},{JANUARY}\n{STRANGER},{ONE},\n{STRANGER},{TWO},\n"
        with in_background(lambda: load(rows, **({"SKIP": "1"} if skip else {}))) as answers:
            wait_until_blocked(world)
            other.commit()
    faults = [f"line {line}: there is no learner {STRANGER}" for line in (3, 4)]
    lines = [f"  {fault}" for fault in faults]
    assert answers == [report(1, *lines, written(), skipped=2) if skip else refused(*faults)]
    assert stored(world) == ({(LEARNER, ONE, "2026-01-01T00:00:00")} if skip else set())


def test_a_lesson_that_is_deleted_during_an_import_stops_it(world, database_url, load):
    with lock_held(database_url) as other:
        other.execute("delete from lessons where id = %s", [TWO])
        with in_background(lambda: load(f"{LEARNER},{ONE},\n{LEARNER},{TWO},\n", SKIP="1")) as answers:
            wait_until_blocked(world)
            other.commit()
    code, out, err = answers[0]
    assert (code, out) == (1, "")
    assert "progress_lesson_id_fkey" in err
    assert stored(world) == set()


@contextmanager
def stopped_import(db: psycopg.Connection, database_url: str, rows: str, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Start an import as a process of its own. Yield it when its completions are inserted, and are not committed."""
    path = tmp_path / "progress.csv"
    path.write_text(HEADER + rows)
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table module_completions in exclusive mode")
        process = spawn(database_url, "import-progress", FILE=str(path))
        try:
            wait_until_blocked(db)
            yield process
        finally:
            process.kill()
            process.communicate()


def test_an_import_that_is_killed_leaves_nothing(world, database_url, tmp_path):
    with stopped_import(world, database_url, f"{LEARNER},{ONE},\n{LEARNER},{TWO},\n", tmp_path):
        pass
    # The server ends the transaction of a client that is gone.
    with world.transaction():
        world.execute("lock table progress in access exclusive mode")
        assert completions(world) == []
    assert completed(world) == []


def test_a_mark_during_an_import_waits_for_it_and_is_no_second_event(make_api, world, database_url, tmp_path):
    api = make_api(WEBHOOK_URL="http://127.0.0.1:9/", WEBHOOK_SECRET="whsec_" + "A" * 32)
    add_user(world, OTHER)
    path = tmp_path / "progress.csv"
    path.write_text(f"{HEADER}{LEARNER},{ONE},{JANUARY}\n{LEARNER},{TWO},{JANUARY}\n")
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table module_completions in exclusive mode")
        with in_background(lambda: run(database_url, "import-progress", FILE=str(path))) as imported:
            wait_until_blocked(world)
            # A read goes on, and does not see what is not committed. So does a write of somebody else.
            assert get(api, "summary")["completedCount"] == 0
            ok(mark(api, 0x11, OTHER))
            with in_background(lambda: mark(api, 0x11)) as answers:
                wait_until_blocked(world, 2)
                other.commit()
    assert imported == [report(2, written(1))]
    answer = ok(answers[0])
    assert (answer["completedAt"], answer["overall"]["completedCount"]) == ("2026-01-01T00:00:00.000Z", 2)
    assert "completions" not in answer
    assert world.execute("select user_id::text from events").fetchall() == [(OTHER,)]


def test_an_import_marks_and_make_complete_at_once_meet_no_deadlock(make_api, world, database_url, tmp_path):
    api = make_api()
    learners, lessons = [uuid4(0xA00 + number) for number in range(4)], [0x11, 0x12, 0x21]
    for learner in learners:
        add_user(world, learner)
    path, columns = tmp_path / "progress.csv", progress_csv.Columns(*HEADER.strip().split(","))
    done = threading.Event()

    def import_once(connection: psycopg.Connection) -> None:
        rows = [f"{learner},{uuid4(lesson)},\n" for learner in learners for lesson in lessons]
        path.write_text(HEADER + "".join(random.sample(rows, 8)))
        learner, lesson = progress_csv.learner(None), progress_csv.lesson
        progress_csv.import_progress(connection, path, columns, learner, lesson, skip=False, dry_run=False)

    def again_and_again(task: Callable[[psycopg.Connection], object]) -> int:
        # As app/cli.py connects.
        with psycopg.connect(
            database_url, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row
        ) as connection:
            count = 0
            while not done.is_set():
                task(connection)
                count += 1
        return count

    def write(seed: int) -> set[int]:
        draw = random.Random(seed)
        answers = []
        for _ in range(25):
            headers = bearer(draw.choice(learners))
            listed = [{"lessonId": uuid4(lesson)} for lesson in draw.sample(lessons, 2)]
            answers += [
                api.post("/api/progress/lessons", headers=headers, json={"lessons": listed}),
                api.delete(f"/api/progress/modules/{uuid4(1)}", headers=headers),
            ]
        return {answer.status_code for answer in answers}

    with ThreadPoolExecutor() as pool:
        tasks = [pool.submit(again_and_again, task) for task in (import_once, write_missing)]
        try:
            assert set.union(*pool.map(write, range(3))) == {200}
        finally:
            done.set()
        assert all(task.result() for task in tasks)
    assert run(database_url, "complete") == (0, "completions written: 0 of modules, 0 of courses\n", "")


# Exports.


def test_an_export_has_every_completion_in_order_and_only_reads(world, database_url, tmp_path):
    complete(world, 0x21, 0x11, at="2026-01-02T03:04:05.678999+01:00")
    complete(world, 0x22, user_id=STRANGER)
    path = tmp_path / "progress.csv"
    text = f"{HEADER}{STRANGER},{uuid4(0x22)},2026-01-01T00:00:00.000Z\n"
    text += "".join(f"{LEARNER},{lesson},2026-01-02T02:04:05.678Z\n" for lesson in (ONE, THREE))
    standby = f"{database_url}&options=-c%20default_transaction_read_only%3Don"
    done = "exported: 3 completions\n"
    assert run(standby, "export-progress", FILE=str(path)) == (0, done, "")
    assert path.read_text() == text
    assert path.stat().st_mode & 0o777 == 0o600
    assert run(database_url, "export-progress", FILE="-") == (0, text, done)
    assert run(database_url, "import-progress", FILE=str(path))[1].startswith("rows: 3 in the file; 0 new, 3 stored")


def test_an_export_is_written_whole_or_not_at_all(world, database_url, tmp_path, monkeypatch):
    complete(world, 0x11)
    (tmp_path / "target.csv").write_text("before")
    link = tmp_path / "progress.csv"
    link.symlink_to("target.csv")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        full = (1, "", f"Error: {link} cannot be written: No space left on device\n")
        assert run(database_url, "export-progress", FILE=str(link)) == full
    assert (tmp_path / "target.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.csv", "target.csv"]
    assert run(database_url, "export-progress", FILE=str(link))[0] == 0
    assert link.is_symlink()
    assert link.read_text().startswith(HEADER)
    for path in (tmp_path, Path(os.devnull)):
        line = f"Error: {path} is not a file that can be replaced; FILE=- writes to standard output\n"
        assert run(database_url, "export-progress", FILE=str(path)) == (1, "", line)
    missing = tmp_path / "missing" / "progress.csv"
    line = f"Error: {missing} cannot be written: No such file or directory\n"
    assert run(database_url, "export-progress", FILE=str(missing)) == (1, "", line)


def test_make_passes_every_variable_on(world, database_url, tmp_path):
    (tmp_path / "it's.csv").write_text(f"a b,c,d\n{LEARNER},Loops,{JANUARY}\nx,Loops,\n")
    (tmp_path / "users.csv").write_text(f"theirs,ours\n{LEARNER},{LEARNER}\n")
    (tmp_path / "lessons.csv").write_text(f"theirs,ours\nLoops,{ONE}\n")
    given = [f"FILE={tmp_path}/it's.csv", f"USERS={tmp_path}/users.csv", f"LESSONS={tmp_path}/lessons.csv"]
    given += ["SKIP=1", "DRY_RUN=1", "USER_COLUMN=a b", "LESSON_COLUMN=c", "TIME_COLUMN=d"]
    fault = f"  line 3: a b: not in USERS={tmp_path}/users.csv"
    assert make(database_url, "import-progress", *given) == report(1, fault, skipped=1, dry=True)
    path = tmp_path / "$(out).csv"
    assert make(database_url, "export-progress", f"FILE={path}") == (0, "exported: 0 completions\n", "")
    assert path.read_text() == HEADER


# Any rows, written as other programs write CSV.

IDS = st.integers(1, 3).map(uuid4)
TIMES = st.one_of(
    st.just(""),
    st.tuples(
        st.datetimes(datetime(1970, 1, 2), datetime(2026, 1, 1)), st.sampled_from(["Z", "+00:00", "+14:00", "-09:30"])
    ).map(lambda pair: pair[0].isoformat() + pair[1]),
)
# csv.writer puts no quotation marks around a single carriage return, which also ends a line.
NOTES = st.text(st.characters(codec="utf-8")).map(lambda text: text.replace("\r", "\r\n"))
ROWS = st.lists(st.tuples(IDS, IDS, TIMES, NOTES), max_size=30)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    order=st.permutations(range(4)),
)
def test_a_round_trip_is_the_identity(db, empty_tables, database_url, tmp_path, rows, quoting, end, order):
    empty_tables()
    add_module(db, 9, 1, 2, 3, published=False)
    for number in (1, 2, 3):
        add_user(db, uuid4(number))
    names = [*HEADER.strip().split(","), "note"]
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    with first.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=end)
        writer.writerow([names[place] for place in order])
        writer.writerows([row[place] for place in order] for row in rows)
    expected: dict[tuple[str, str], datetime] = {}
    now = datetime.now(UTC)
    for user_id, lesson_id, at, _ in rows:
        time = datetime.fromisoformat(at) if at else now
        expected[user_id, lesson_id] = min(time, expected.get((user_id, lesson_id), time))
    assert run(database_url, "import-progress", FILE=str(first))[0] == 0
    assert run(database_url, "export-progress", FILE=str(second))[0] == 0
    exported = second.read_text()
    found = {(row[0], row[1]): row[2] for row in csv.reader(exported.splitlines()[1:])}
    assert sorted(expected) == list(found)
    for key, time in expected.items():
        if time == now:
            assert now - timedelta(milliseconds=1) <= datetime.fromisoformat(found[key]) <= datetime.now(UTC)
        else:
            utc = time.astimezone(UTC)
            assert found[key] == f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03}Z"
    # Into an empty table, and out again: byte for byte the same.
    db.execute("delete from progress")
    assert run(database_url, "import-progress", FILE=str(second))[0] == 0
    assert run(database_url, "export-progress", FILE=str(second))[0] == 0
    assert second.read_text() == exported
