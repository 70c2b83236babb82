"""Contract §3: writes of one learner answer as if one came after the other.

Each test makes one order of the steps of two connections happen, and its name says which.
"""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest
from flask.testing import FlaskClient

from app.database import statements
from app.database.statements import SQL
from tests.calls import calls
from tests.conftest import both_plans
from tests.world import LEARNER, add_course, add_module, add_user, bearer, complete, require, uuid4

plan_mode = both_plans()


@contextmanager
def in_background(call: Callable[[], object]) -> Iterator[list]:
    """Run `call` in a thread while the block runs. After the block, the list has its result."""
    results: list = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    yield results
    thread.join(60)
    assert results, "the call in the background did not end"


def wait_until_blocked(db: psycopg.Connection, count: int = 1) -> None:
    """Wait until `count` sessions of this database wait for a lock."""
    deadline = time.monotonic() + 60
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while db.execute(query).fetchone()[0] < count:  # type: ignore[index]
        assert time.monotonic() < deadline, "nobody waits for a lock"


@contextmanager
def lock_held(database_url: str) -> Iterator[psycopg.Connection]:
    """Yield a connection that holds the learner's lock, as another write does that has not ended."""
    with closing(psycopg.connect(database_url)) as other:
        other.execute("select id from users where id = %s for no key update", [LEARNER])
        yield other


def test_a_mark_waits_for_the_write_before_it_and_counts_it(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    with lock_held(database_url) as other:
        other.execute("insert into progress values (%s, %s, now())", [LEARNER, uuid4(0x12)])
        with in_background(lambda: api.post(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            other.commit()
    assert answers[0].json["overall"] == {"percent": 100, "completedCount": 2, "totalCount": 2}


def test_a_write_of_a_learner_who_was_added_after_its_lock_is_made_once_more(api: FlaskClient, db, database_url):
    """Without a row in users, lock.sql locks nothing, and two writes could run at the same time.

    The site, or another call, may add the row while a write runs.
    """
    add_module(db, 1, 0x11, 0x12)
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table progress in access exclusive mode")  # may_mark.sql waits for this
        with in_background(lambda: api.post(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            add_user(db)
            other.commit()
    assert answers[0].json["overall"] == {"percent": 50, "completedCount": 1, "totalCount": 2}


def test_a_mark_that_waited_for_the_unmark_of_its_prerequisite_is_refused(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    require(db, 0x12, 0x11)
    complete(db, 0x11)
    with lock_held(database_url) as other:
        other.execute("delete from progress where user_id = %s and lesson_id = %s", [LEARNER, uuid4(0x11)])
        with in_background(lambda: api.post(f"/api/progress/lessons/{uuid4(0x12)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            other.commit()
    assert (answers[0].status_code, answers[0].json["prerequisites"]) == (409, [uuid4(0x11)])
    assert db.execute("select count(*) from progress").fetchone() == (0,)


def test_a_mark_that_waited_for_the_mark_of_its_prerequisite_succeeds(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    require(db, 0x12, 0x11)
    with lock_held(database_url) as other:
        other.execute("insert into progress values (%s, %s, now())", [LEARNER, uuid4(0x11)])
        with in_background(lambda: api.post(f"/api/progress/lessons/{uuid4(0x12)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            other.commit()
    assert answers[0].json["overall"] == {"percent": 100, "completedCount": 2, "totalCount": 2}


def test_a_lesson_that_is_deleted_during_its_unmark_is_not_found(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    with closing(psycopg.connect(database_url)) as other:
        # lesson.sql waits for this, and unmark.sql does not.
        other.execute("lock table lesson_prerequisites in access exclusive mode")
        with in_background(lambda: api.delete(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            other.execute("delete from lessons where id = %s", [uuid4(0x11)])
            other.commit()
    assert (answers[0].status_code, answers[0].json["code"]) == (404, "lesson_not_found")


def test_a_second_mark_that_waited_for_the_first_keeps_its_time(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11)
    with lock_held(database_url) as other:
        other.execute("insert into progress values (%s, %s, '2020-01-01Z')", [LEARNER, uuid4(0x11)])
        with in_background(lambda: api.post(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            other.commit()
    assert answers[0].json["completedAt"] == "2020-01-01T00:00:00.000Z"


def test_a_mark_is_dated_when_it_is_made_not_when_it_began_to_wait(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11)
    mark = lambda: api.post(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer())  # noqa: E731
    with lock_held(database_url) as other, in_background(mark) as answers:
        wait_until_blocked(db)
        waited = db.execute("select clock_timestamp()").fetchone()[0]
        other.commit()
    assert answers[0].status_code == 200
    # completed_at is cut to milliseconds, so it may be up to one millisecond earlier.
    assert db.execute("select completed_at >= %s - interval '1 ms' from progress", [waited]).fetchone() == (True,)


def test_an_unmark_waits_for_the_write_before_it_and_counts_it(api: FlaskClient, db, database_url):
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    with lock_held(database_url) as other:
        other.execute("insert into progress values (%s, %s, now())", [LEARNER, uuid4(0x12)])
        with in_background(lambda: api.delete(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer())) as answers:
            wait_until_blocked(db)
            other.commit()
    assert answers[0].json["overall"] == {"percent": 50, "completedCount": 1, "totalCount": 2}


def test_reads_and_the_writes_of_others_do_not_wait_for_a_learners_lock(api: FlaskClient, db, database_url):
    add_user(db)
    other_learner = add_user(db, uuid4(0xB0B))
    add_module(db, 1, 0x11)
    with lock_held(database_url):
        assert api.get("/api/progress/summary", headers=bearer()).status_code == 200
        assert api.post(f"/api/progress/lessons/{uuid4(0x11)}", headers=bearer(other_learner)).status_code == 200


@pytest.fixture
def server(service_url, db):
    """Return the URL of a real gunicorn on the database of the tests."""
    return service_url


def call(method: str, url: str) -> tuple[int, dict]:
    request = urllib.request.Request(url, method=method, headers=bearer())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def _mark_all(url: str, lessons: list[int]) -> list[tuple[int, dict]]:
    return [call("POST", f"{url}/api/progress/lessons/{uuid4(lesson)}") for lesson in lessons]


def _toggle(url: str, method: str, lesson: int, rounds: int) -> list[tuple[int, dict]]:
    return [call(method, f"{url}/api/progress/lessons/{uuid4(lesson)}") for _ in range(rounds)]


def test_two_hundred_marks_of_one_learner_from_eight_clients_fit_one_serial_order(server, db):
    add_user(db)
    lessons = list(range(0x100, 0x100 + 200))
    add_module(db, 1, *lessons[:100])
    add_module(db, 2, *lessons[100:])
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(_mark_all, [server] * 8, [lessons[start::8] for start in range(8)]))
    answers = [answer for part in parts for answer in part]
    assert [status for status, _ in answers] == [200] * 200
    # Each answer counts its own mark and all marks before it. So each number from 1 to 200 comes exactly once.
    assert sorted(answer["overall"]["completedCount"] for _, answer in answers) == list(range(1, 201))
    for module in (uuid4(1), uuid4(2)):
        counts = [answer["module"]["completedCount"] for _, answer in answers if answer["module"]["moduleId"] == module]
        assert sorted(counts) == list(range(1, 101))
    # A client waits for each answer before it sends the next.
    for part in parts:
        counts = [answer["overall"]["completedCount"] for _, answer in part]
        assert counts == sorted(counts)
    assert call("GET", f"{server}/api/progress/summary") == (
        200,
        {"percent": 100, "completedCount": 200, "totalCount": 200},
    )


def test_an_unmark_racing_the_mark_of_what_needs_it_leaves_only_answers_that_a_serial_order_gives(server, db):
    """B needs A. One client unmarks and marks A again and again, another one marks and unmarks B.

    A write holds the lock while it counts, so its answer shows the whole state: whether A and B are completed. Each
    answer must be a state that some order of the writes gives. B may be completed without A: it was marked before A was
    unmarked, which is allowed.
    """
    add_user(db)
    add_module(db, 1, 0xA, 0xB)
    require(db, 0xB, 0xA)
    calls = [("POST", 0xA), ("DELETE", 0xA), ("POST", 0xB), ("DELETE", 0xB)]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda call: _toggle(server, call[0], call[1], 60), calls))
    mark_a, unmark_a, mark_b, unmark_b = (
        [(status, answer.get("overall")) for status, answer in part] for part in parts
    )

    def overall(completed: int, total: int) -> dict:
        return {"percent": 100 * completed // total, "completedCount": completed, "totalCount": total}

    # The counts for each state after a write, where (1, 0) means that A is completed and B is not: (1, 0) is 1 of 2,
    # (1, 1) is 2 of 2, (0, 0) is 0 of 1 because B is locked, (0, 1) is 1 of 2.
    assert {str(answer) for answer in mark_a} <= {str((200, overall(1, 2))), str((200, overall(2, 2)))}
    assert {str(answer) for answer in unmark_a} <= {str((200, overall(0, 1))), str((200, overall(1, 2)))}
    # B is marked while A is completed, or it was marked already. It is refused if neither A nor B is completed.
    assert {str(answer) for answer in mark_b} <= {
        str((200, overall(2, 2))),
        str((200, overall(1, 2))),
        str((409, None)),
    }
    assert {str(answer) for answer in unmark_b} <= {str((200, overall(1, 2))), str((200, overall(0, 1)))}


def test_the_statements_of_each_call_are_fixed_in_number(make_api, environ, db, monkeypatch):
    """Each call runs the statements that sql/README.md lists, however many lessons there are."""

    ran: list[str] = []
    run = statements.run

    def counted(connection, name, **parameters):
        ran.append(name)
        return run(connection, name, **parameters)

    monkeypatch.setattr(statements, "run", counted)
    add_user(db)
    add_module(db, 1, *range(0x100, 0x100 + 50))
    add_module(db, 2, *range(0x200, 0x200 + 50))
    add_course(db, 3, 1, 2)
    api = make_api()
    ran.clear()
    dbas = (SQL / "README.md").read_text()
    expected = {
        ("GET", "summary"): ["summary"],
        ("GET", f"modules/{uuid4(1)}"): ["module"],
        ("GET", "lessons"): ["lessons"],
        ("GET", "modules"): ["modules"],
        ("GET", "outline"): ["outline"],
        ("GET", "courses"): ["courses"],
        ("GET", f"courses/{uuid4(3)}"): ["course"],
        ("GET", "next"): ["next"],
        ("GET", "access"): ["access"],
        ("GET", "completions"): ["completions"],
        ("GET", "export"): ["export"],
        ("POST", f"lessons/{uuid4(0x100)}"): ["lock", "may_mark", "mark", "lesson"],
        ("DELETE", f"lessons/{uuid4(0x100)}"): ["lock", "unmark", "lesson"],
        ("DELETE", f"modules/{uuid4(1)}"): ["lock", "start_over_module", "module_counts"],
        ("DELETE", f"courses/{uuid4(3)}"): ["lock", "start_over_course", "course_counts"],
        ("DELETE", "lessons?all=true"): ["lock", "start_over_all", "summary"],
        ("POST", "lessons"): ["lock", "may_mark_lessons", "mark_lessons", "marked_lessons"],
    }
    assert set(expected) == set(calls(lessonId=[uuid4(0x100)]))
    for (method, path), files in expected.items():
        call = path.replace(uuid4(3), "{courseId}").replace(uuid4(1), "{moduleId}").replace(uuid4(0x100), "{lessonId}")
        documented = re.search(rf"^\| `{method} /api/progress/{re.escape(call)}` \|(.*)\|$", dbas, re.M)
        assert documented
        assert re.findall(r"`(\w+)\.sql`", documented[1]) == files
        # Not all lessons of the module: a mark that completes a module runs more statements.
        body = {"lessons": [{"lessonId": uuid4(lesson)} for lesson in range(0x100, 0x100 + 49)]}
        sent = {"json": body} if (method, path) == ("POST", "lessons") else {}
        assert api.open(f"/api/progress/{path}", method=method, headers=bearer(), **sent).status_code == 200
        assert ran == files, path
        ran.clear()
