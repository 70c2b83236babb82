"""Processes are killed at any moment: no answered write is lost, and a task does all of its work or none."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.demo import postgres
from tests.conftest import DEEP, Gunicorn, as_service, grant, migrate, running_gunicorn, send_signal
from tests.load import Answer, Load, fill
from tests.receiver import WEBHOOK_SECRET
from tests.test_catalog import lesson, module
from tests.test_cli import ended, run, spawn
from tests.test_migrations import FOLDER, NAMES, connected, execute, schema
from tests.world import SECRET, add_user, complete, get

ROUNDS = 30 if DEEP else 3
TASKS = 30 if DEEP else 2  # rounds of a task of make's


# Answered writes


class Cluster:
    """A PostgreSQL that writes to the disk with fsync, as in production, and that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process, self.url = postgres.start(folder)

    def kill(self, whole: bool) -> None:
        """Kill all processes of the server, or only the first one. The others end when the first one is gone."""
        first = self.process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        send_signal([first, *map(int, children if whole else [])], signal.SIGKILL)
        self.process.wait()

    def start(self) -> None:
        self.process, self.url = postgres.start(self.folder)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster")
    migrate(cluster.url)
    grant(cluster.url)
    with connected(cluster.url) as db:
        fill(db)
        # Each lesson is a module of its own, so that the first mark of it completes the module.
        db.execute("insert into modules (id, title, position) select id, 'One', 1 from lessons")
        db.execute("update lessons set module_id = id")
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert db.execute(f"show {name}").fetchone() == ("on",)
    yield cluster
    postgres.stop(cluster.process, cluster.folder)


def kill_gunicorn(service: Gunicorn) -> None:
    """Kill all its processes. The master comes first, because it would replace workers that are killed."""
    workers = service.workers()
    service.process.kill()
    send_signal(workers, signal.SIGKILL)
    service.process.wait()


Rows = dict[tuple[str, str], str]  # (learner, lesson) → completedAt


def rows(cluster: Cluster) -> Rows:
    """Return the rows of progress. First wait until no backend is still working for a service that was killed."""
    shown = """to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
    busy = "select from pg_stat_activity where application_name = 'progress-tracking' and state <> 'idle'"
    with connected(cluster.url) as db:
        deadline = time.monotonic() + 60
        while db.execute(busy).rowcount:
            assert time.monotonic() < deadline, "a statement of the service does not end"
        found = db.execute(f"select user_id::text, lesson_id::text, {shown} from progress").fetchall()
    return {(learner, lesson): at for learner, lesson, at in found}


def assert_events_are_the_writes(cluster: Cluster, after: Rows) -> None:
    """Assert that the events, in their order, lead to the rows: each write has its event, and no other is there.

    Each completion has one event too, and each event of a completion has its row.
    """
    shown = """to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
    found: Rows = {}
    told = []
    with connected(cluster.url) as db:
        for learner, kind, data in db.execute("select user_id::text, type, data from events order by user_id, id"):
            key = learner, data.get("lessonId", "")
            if kind == "lesson.completed":
                assert key not in found
                found[key] = data["completedAt"]
            elif kind == "lesson.uncompleted":
                assert found.pop(key) == data["completedAt"]
            else:
                told.append((learner, data.get("moduleId") or data["courseId"], data["completedAt"]))
        completions = db.execute(
            f"select user_id::text, module_id::text, {shown} from module_completions"
            f" union all select user_id::text, course_id::text, {shown} from course_completions"
        ).fetchall()
    assert found == after
    assert sorted(told) == sorted(completions) != []


def assert_nothing_lost(before: Rows, answers: list[Answer], after: Rows) -> None:
    """Assert that the rows of progress follow from the rows before and from the writes since, in their order.

    A write that was answered has happened. A write without an answer may have happened at any time since it was sent,
    or not at all.
    """
    writes: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        if answer.method != "GET":
            writes.setdefault((answer.learner, answer.lesson), []).append(answer)
    for key in {*before, *writes, *after}:
        made = writes.get(key, [])
        possible = [before.get(key)]
        for write in made:
            if write.status == 200:
                possible[0] = write.document["completedAt"]
        unanswered = {write.method for write in made if write.status != 200}
        if "DELETE" in unanswered:
            possible.append(None)
        if "POST" in unanswered and after.get(key) is not None:
            continue
        assert after.get(key) in possible, (key, possible, made)


def test_what_was_answered_survives_the_death_of_gunicorn_and_of_postgresql(cluster: Cluster, make_api):
    environ = {"DATABASE_URL": as_service(cluster.url), "AUTH_JWT_SECRET": SECRET, "RATE_LIMIT_WRITES": ""}
    environ |= {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}
    environ |= {"WEBHOOK_URL": "https://www.example.org/webhooks", "WEBHOOK_SECRET": WEBHOOK_SECRET}
    before: Rows = {}
    service = None
    with ExitStack() as stack:
        for number in range(ROUNDS):
            killed = [{"gunicorn", "postgresql"}, {"postgresql"}, {"gunicorn"}][number % 3]
            service = service or stack.enter_context(running_gunicorn(environ))
            with Load(service.url, calls=("POST", "DELETE", "POST")) as load:
                load.wait_for_more(random.randint(1, 200))
                time.sleep(random.uniform(0, 0.02))  # otherwise the kill would always come right after an answer
                if "postgresql" in killed:
                    cluster.kill(whole=random.random() < 0.5)
                if "gunicorn" in killed:
                    kill_gunicorn(service)
                    service = None
                if service:
                    cluster.start()
                    load.wait_for_more(1)
            if killed == {"gunicorn", "postgresql"}:
                cluster.start()
            after = rows(cluster)
            assert load.marked()
            assert_nothing_lost(before, load.answers, after)
            assert_events_are_the_writes(cluster, after)
            before = after
    api = make_api(**environ)
    for learner in {learner for learner, _ in before}:
        document = get(api, "lessons", learner)
        assert {(learner, one["lessonId"]): one["completedAt"] for one in document["lessons"]} == {
            key: at for key, at in before.items() if key[0] == learner
        }


LOSSES = {
    "a mark that was answered": ({}, [("POST", 200, "1")], {}),
    "an unmark that was answered": ({"a": "1"}, [("DELETE", 200, None)], {"a": "1"}),
    "the time that was answered": ({}, [("POST", 200, "1")], {"a": "2"}),
    "the last of three": ({}, [("POST", 200, "1"), ("DELETE", 200, None), ("POST", 200, "2")], {}),
    "a mark beside one that was not answered": ({}, [("POST", 200, "1"), ("POST", None, None)], {}),
    "what was there before": ({"a": "1"}, [], {}),
    "the absence of what nobody marked": ({}, [], {"a": "1"}),
}
NO_LOSSES = {
    "a mark that was not answered and did not happen": ({}, [("POST", None, None)], {}),
    "a mark that was not answered and happened": ({}, [("POST", 503, None)], {"a": "1"}),
    "an unmark that was not answered and happened": ({"a": "1"}, [("DELETE", None, None)], {}),
    "an unmark that was not answered and did not happen": ({"a": "1"}, [("DELETE", None, None)], {"a": "1"}),
    "all that was answered": ({}, [("POST", 200, "1"), ("DELETE", 200, None), ("POST", 200, "2")], {"a": "2"}),
}


def check(before: dict[str, str], writes: list[tuple[str, int | None, str | None]], after: dict[str, str]) -> None:
    def one(state: dict[str, str]) -> Rows:
        return {("learner", lesson): at for lesson, at in state.items()}

    answers = [
        Answer(method, "learner", "a", status, {"completedAt": at}, None, 0, 0, None) for method, status, at in writes
    ]
    assert_nothing_lost(one(before), answers, one(after))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_check_sees_that_something_is_lost(loss):
    with pytest.raises(AssertionError):
        check(*loss)


@pytest.mark.parametrize("state", NO_LOSSES.values(), ids=NO_LOSSES)
def test_the_check_sees_no_loss_where_there_is_none(state):
    check(*state)


# All or nothing


def kill_at_work(db: psycopg.Connection, process: subprocess.Popen[str], after: float) -> int:
    """Wait until a task has begun a transaction. Kill it `after` seconds later. Wait until its backend has ended.

    Returns the exit code of the task, which may have ended before the kill.
    """
    others = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and "
    deadline = time.monotonic() + 60
    while not db.execute(others + "xact_start is not null").rowcount and process.poll() is None:
        assert time.monotonic() < deadline, "it does not begin"
    time.sleep(after)
    process.kill()
    code = ended(process)[0]
    while db.execute(others + "backend_type = 'client backend'").rowcount:
        assert time.monotonic() < deadline, "the killed client's session does not end"
    return code


def moments(took: float) -> list[float]:
    """Return the seconds after which to kill a task: 0, and random times up to the time that the task takes."""
    return [0, *(random.uniform(0, took) for _ in range(TASKS - 1))]


def a_catalog(edition: int) -> dict[str, Any]:
    """Return a catalog of 300 lessons.

    Each edition has other titles, positions and prerequisites. In each, other lessons are missing or unpublished.
    """
    numbers = [n for n in range(1, 361) if n % 6 != edition]
    chosen = random.Random(edition)
    chosen.shuffle(numbers)
    lessons = [
        lesson(n, *numbers[max(0, at - chosen.randint(0, 2)) : at], title=f"{edition}", published=chosen.random() < 0.9)
        for at, n in enumerate(numbers)
    ]
    return {"modules": [module(0xF000 + n, *lessons[n::10], title=f"{edition}") for n in range(10)]}


def whole_catalog(db: psycopg.Connection) -> list[Any]:
    columns = {
        "modules": "id, title, position",
        "lessons": "id, module_id, title, position, published, is_free",
        "lesson_prerequisites": "lesson_id, prerequisite_id",
        "progress": "user_id, lesson_id, completed_at, updated_at",
    }
    return [db.execute(f"select {names} from {table} order by 1, 2").fetchall() for table, names in columns.items()]


def test_a_load_that_is_killed_at_any_moment_leaves_all_or_nothing(migrated_database, tmp_path):
    url = migrated_database()
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for edition, path in enumerate(paths):
        path.write_text(json.dumps(a_catalog(edition)))
    with connected(url) as db:
        add_user(db)
        assert run(url, "load-catalog", str(paths[0]))[0] == 0
        complete(db, *range(1, 6), *range(7, 12))
        # Load each file once after the other one, because lessons that a file leaves out stay as unpublished lessons.
        # From then on, a load leads from one of these two states to the other.
        states = []
        for path in (paths[1], paths[0]):
            started = time.monotonic()
            assert run(url, "load-catalog", str(path))[0] == 0
            took = time.monotonic() - started
            states.append(whole_catalog(db))
        assert states[0] != states[1]
        codes = set()
        for moment in moments(took):
            other = paths[0] if whole_catalog(db) == states[0] else paths[1]
            codes.add(kill_at_work(db, spawn(url, "load-catalog", str(other)), moment))
            assert whole_catalog(db) in states
    assert -signal.SIGKILL in codes


def test_migrations_that_are_killed_at_any_moment_leave_each_applied_or_not(new_database):
    own = "--exclude-table=*yoyo*"
    reference = new_database()
    schemas = [schema(reference, own)]
    for name in NAMES:
        execute(reference, (FOLDER / f"{name}.sql").read_text())
        schemas.append(schema(reference, own))
    # The schemas after two migrations differ. Only 0007_marks changes nothing on a fresh database.
    assert len(set(schemas)) == len(NAMES)
    started = time.monotonic()
    assert run(new_database(), "migrate")[0] == 0
    took = time.monotonic() - started
    codes = set()
    for moment in moments(took):
        url = new_database()
        with connected(url) as db:
            codes.add(kill_at_work(db, spawn(url, "migrate"), moment))
        now = schema(url, own)
        applied = [number for number, one in enumerate(schemas) if one == now]
        # yoyo records a migration after applying it. If the run is killed in between, the next run applies it again,
        # which does no harm.
        assert len(recorded(url)) in {number - late for number in applied for late in (0, 1)}
        assert recorded(url) == NAMES[: len(recorded(url))]
        assert run(url, "migrate-unlock")[0] == 0
        assert run(url, "migrate")[0] == 0
        assert (schema(url, own), recorded(url)) == (schemas[-1], NAMES)
    assert -signal.SIGKILL in codes


def recorded(url: str) -> list[str]:
    with connected(url) as db:
        if db.execute("select to_regclass('_yoyo_migration')").fetchone() == (None,):
            return []
        return [name for (name,) in db.execute("select migration_id from _yoyo_migration order by 1")]
