"""The write limit, contract §6. The database's clock decides. The tests do not wait: they move the stored hits back."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from app.database.statements import STATEMENTS
from tests.calls import PREFIX, reads
from tests.conftest import SERVICE, as_service, free_port
from tests.hammer import assert_exact, assert_retry_after, hammer, write
from tests.test_concurrency import in_background, wait_until_blocked
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    STRANGER,
    add_lesson,
    add_module,
    add_user,
    assert_problem,
    bearer,
    get,
    impatient,
    mark,
    require,
    unmark,
    uuid4,
)


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    """Module 1 has the lessons 1 to 3, and lesson 3 needs lesson 2. Lesson 9 is unpublished."""
    add_user(db)
    add_module(db, 1, 1, 2, 3)
    require(db, 3, 2)
    add_lesson(db, 1, 9, published=False)
    return db


def let_pass(db: psycopg.Connection, seconds: float) -> None:
    """Make all counted hits older by these seconds, as if time had passed."""
    db.execute(
        "update rate_limits set expires_at = expires_at - make_interval(secs => %(s)s),"
        " hits = (select array_agg(hit - make_interval(secs => %(s)s) order by hit) from unnest(hits) as hit)",
        {"s": seconds},
    )


def retry_after(answer: Any) -> int:
    assert answer.status_code == 429
    return int(answer.headers["Retry-After"])


def test_marks_and_unmarks_of_a_learner_are_counted_together(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="3 per hour")
    assert [mark(api, 1).status_code, unmark(api, 1).status_code, mark(api, 2).status_code] == [200] * 3
    for answer in (mark(api, 1), unmark(api, 1)):
        assert_problem(answer, "rate_limited")
        assert answer.get_json()["detail"].startswith("The limit is 3 per hour for all writes together. ")
        assert 3590 < retry_after(answer) <= 3600
    # The refused writes have changed nothing.
    assert get(api, "summary")["completedCount"] == 1


def test_each_learner_has_a_limit_of_their_own(make_api, world):
    add_user(world, FREE_LEARNER)
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    assert [mark(api, 1).status_code, mark(api, 1).status_code] == [200, 429]
    assert mark(api, 1, FREE_LEARNER).status_code == 200


def test_reads_are_not_limited(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    assert [mark(api, 1).status_code, mark(api, 1).status_code] == [200, 429]
    assert [api.get("/api/progress/summary", headers=bearer()).status_code for _ in range(5)] == [200] * 5


def test_the_limit_is_ten_a_minute_unless_it_is_set(make_api, world, environ, monkeypatch):
    monkeypatch.delitem(environ, "RATE_LIMIT_WRITES")
    api = make_api()
    assert [mark(api, 1).status_code for _ in range(11)] == [200] * 10 + [429]
    assert 50 < retry_after(mark(api, 1)) <= 60  # Flask-Limiter's own time would be up to 61


def test_an_empty_setting_turns_it_off(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="")
    assert {mark(api, 1).status_code for _ in range(30)} == {200}
    assert world.execute("select count(*) from rate_limits").fetchone() == (0,)


COUNTED: dict[str, Any] = {
    "200": lambda api: mark(api, 1),
    "200 unmark": lambda api: unmark(api, 1),
    "400 invalid_lesson_id": lambda api: api.post("/api/progress/lessons/1", headers=bearer()),
    "400 invalid_idempotency_key": lambda api: mark(api, 1, headers={"Idempotency-Key": ""}),
    "400 invalid_body": lambda api: mark(api, 1, json=[]),
    "400 lesson_not_available": lambda api: mark(api, 9),
    "404 lesson_not_found": lambda api: mark(api, 0xDEAD),
    "409 lesson_locked": lambda api: mark(api, 3),
    "413 body_too_large": lambda api: mark(api, 1, data=b" " * 20000),
    "415 unsupported_media_type": lambda api: mark(api, 1, data="{}", content_type="text/plain"),
}


@pytest.mark.parametrize("name", COUNTED)
def test_a_write_counts_whatever_its_answer(make_api, world, name):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    answer = COUNTED[name](api)
    assert str(answer.status_code) == name[:3]
    assert answer.status_code == 200 or answer.json["code"] == name[4:]
    assert "Retry-After" not in answer.headers
    assert not [header for header, _ in answer.headers if header.startswith("X-RateLimit")]
    assert_problem(mark(api, 1), "rate_limited")
    # Over the limit, a write is refused before its other faults are checked.
    assert_problem(COUNTED[name](api), "rate_limited")


def test_the_write_of_a_stranger_counts_too(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    assert [mark(api, 1, STRANGER).status_code, mark(api, 1, STRANGER).status_code] == [403, 429]


def test_what_has_no_session_counts_for_nobody(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        for _ in range(3):
            assert api.post(f"/api/progress/lessons/{uuid4(1)}", headers=headers).status_code == 401
    assert world.execute("select count(*) from rate_limits").fetchone() == (0,)
    assert mark(api, 1).status_code == 200


def test_what_is_refused_does_not_count(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="2 per hour")
    assert [mark(api, 1).status_code for _ in range(20)] == [200, 200, *[429] * 18]
    let_pass(world, 3600)
    assert [mark(api, 1).status_code for _ in range(3)] == [200, 200, 429]


@pytest.fixture
def frozen_clock(world: psycopg.Connection, database_url: str) -> Iterator[str]:
    """Yield the URL of the database with a clock that stands still until let_pass_exactly() moves it."""
    world.execute(
        "create schema frozen; create table frozen.clock as select now() as time;"
        " create function frozen.now() returns timestamptz language sql as 'select time from frozen.clock';"
        " create function frozen.clock_timestamp() returns timestamptz language sql as 'select frozen.now()';"
        f" grant usage on schema frozen to {SERVICE}; grant select on frozen.clock to {SERVICE}"
    )
    yield f"{as_service(database_url)}&options=-c%20search_path%3Dfrozen,pg_catalog,public"
    world.execute("drop schema frozen cascade")


def test_retry_after_is_the_first_whole_second_at_which_a_write_is_let_through(make_api, world, frozen_clock):
    def let_pass_exactly(seconds: float) -> None:
        world.execute("update frozen.clock set time = time + make_interval(secs => %s)", [seconds])

    api = make_api(DATABASE_URL=frozen_clock, RATE_LIMIT_WRITES="3 per minute")
    assert mark(api, 1).status_code == 200
    let_pass_exactly(17.5)
    assert [mark(api, 1).status_code, mark(api, 1).status_code] == [200, 200]
    # The first of the three hits leaves the window in 42.5 seconds.
    assert retry_after(mark(api, 1)) == 43
    let_pass_exactly(42)
    assert retry_after(mark(api, 1)) == 1
    let_pass_exactly(1)
    assert mark(api, 1).status_code == 200
    # The other two hits leave the window 17 seconds later.
    assert retry_after(mark(api, 1)) == 17
    let_pass_exactly(16.5)
    assert retry_after(mark(api, 1)) == 1
    let_pass_exactly(0.5)
    assert [mark(api, 1).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("hours", [-5, 5])
def test_the_services_own_clock_does_not_matter(make_api, world, monkeypatch, hours):
    api = make_api(RATE_LIMIT_WRITES="2 per minute")
    headers = bearer()
    monkeypatch.setattr("app.limits.time", _Clock(hours))
    path = f"/api/progress/lessons/{uuid4(1)}"
    assert [api.post(path, headers=headers).status_code for _ in range(2)] == [200, 200]
    assert 58 <= retry_after(api.post(path, headers=headers)) <= 60


class _Clock:
    def __init__(self, hours: int) -> None:
        self.hours = hours

    def time(self) -> float:
        return time.time() + self.hours * 3600


def test_a_lower_and_a_higher_limit_hold_at_once_after_a_restart(make_api, world):
    few, many = make_api(RATE_LIMIT_WRITES="2 per hour"), make_api(RATE_LIMIT_WRITES="4 per hour")
    assert [mark(few, 1).status_code for _ in range(3)] == [200, 200, 429]
    assert [mark(many, 1).status_code for _ in range(5)] == [200] * 4 + [429]


def test_a_read_is_not_counted(make_api, world):
    limited, unlimited = make_api(RATE_LIMIT_WRITES="10 per minute"), make_api(RATE_LIMIT_WRITES="")
    for path in reads():
        endpoint, _ = limited.application.url_map.bind("x").match(PREFIX + path)
        views = [api.application.view_functions[endpoint] for api in (limited, unlimited)]
        assert views[0] is views[1]
    assert get(limited, "summary") == get(unlimited, "summary")
    assert world.execute("select count(*) from rate_limits").fetchone() == (0,)


def test_a_write_that_is_rolled_back_has_counted(make_api, world, database_url):
    api = impatient(make_api(RATE_LIMIT_WRITES="1 per hour", WEB_THREADS="1"))
    with closing(psycopg.connect(database_url)) as other:
        other.execute("select id from users where id = %s for no key update", [LEARNER])
        assert_problem(mark(api, 1), "unavailable")
    assert_problem(mark(api, 1), "rate_limited")


def test_a_storage_that_is_away_is_503_and_not_unlimited(make_api, world, database_url):
    api = impatient(make_api(RATE_LIMIT_WRITES="10 per minute", WEB_THREADS="1"))
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table rate_limits in access exclusive mode")
        assert_problem(mark(api, 1), "unavailable")
        assert get(api, "summary")["completedCount"] == 0
    redis = make_api(RATE_LIMIT_STORAGE_URI=f"redis://127.0.0.1:{free_port()}/0", RATE_LIMIT_WRITES="10 per minute")
    assert_problem(mark(redis, 1), "unavailable")
    assert get(redis, "summary")["completedCount"] == 0


def test_a_learner_who_waits_for_their_own_hit_holds_up_no_other(make_api, world, database_url):
    api = make_api(RATE_LIMIT_WRITES="10 per minute", DATABASE_TIMEOUT="20")
    learners = [add_user(world, uuid4(number)) for number in range(0x1000, 0x1000 + 100)]
    assert {mark(api, 1, learner).status_code for learner in [LEARNER, *learners]} == {200}
    with closing(psycopg.connect(database_url)) as other:
        other.execute("select key from rate_limits where key like %s for update", [f"%{LEARNER}%"])
        with in_background(lambda: mark(api, 1)) as answers:
            wait_until_blocked(world)
            assert {mark(api, 1, learner).status_code for learner in learners} == {200}
            other.rollback()
    assert answers[0].status_code == 200


def run_statement(db: psycopg.Connection, name: str, key: str, amount: int = 10) -> Any:
    with psycopg.RawCursor(db) as cursor:
        values = {"key": key, "amount": str(amount), "window": "60"}
        statement = STATEMENTS[name]
        return cursor.execute(statement.query, [values[name] for name in statement.parameters]).fetchone()


def hit(db: psycopg.Connection, key: str) -> bool:
    return run_statement(db, "limits/hit", key) is not None


def test_a_limit_that_was_lowered_looks_at_as_many_of_the_latest_hits(db):
    assert hit(db, "b")
    for number in range(10):
        assert hit(db, "a")
        let_pass(db, 5 if number < 9 else 0)
    for amount in (1, 5, 10):
        age, hits = run_statement(db, "limits/window", "a", amount)
        assert hits == amount
        assert (amount - 1) * 5 <= age < (amount - 1) * 5 + 3  # 3 seconds for a slow machine
        assert run_statement(db, "limits/hit", "a", amount) is None
    let_pass(db, 38)
    assert run_statement(db, "limits/window", "a")[1] == 5  # the other five have left the window


# Two kinds of plan: a nested loop, which PostgreSQL may choose if the table was almost empty when its statistics were
# made, and a plan that does not read the keys in order.
@pytest.mark.parametrize("off", [("hashjoin", "mergejoin", "hashagg", "sort", "material"), ("indexscan",)])
def test_rows_that_have_expired_are_taken_away_in_passing(db, database_url, off):
    options = " ".join(f"-c enable_{kind}=off" for kind in off)
    with closing(psycopg.connect(database_url, autocommit=True, options=options)) as service:
        for number in reversed(range(10)):
            assert hit(service, f"old-{number}")
        let_pass(db, 61)
        assert hit(service, "new")  # this key sorts before the old ones
        assert keys(db) == ["new", *(f"old-{number}" for number in range(2, 10))]
        # A hit deletes expired rows with the next keys. It does not wait for rows that another transaction has locked.
        assert hit(service, "old-6")
        assert keys(db) == ["new", *(f"old-{number}" for number in (2, 3, 4, 5, 6, 9))]
        service.execute("set lock_timeout = '1 s'")
        with db.transaction():
            db.execute("select from rate_limits where key = 'old-2' for update")
            assert hit(service, "new")
        assert keys(db) == ["new", "old-2", "old-5", "old-6", "old-9"]
        # A row that has not expired stays.
        assert hit(service, "old-5")
        for _ in range(5):
            assert hit(service, "new")
        assert keys(db) == ["new", "old-5", "old-6"]


def keys(db: psycopg.Connection) -> list[str]:
    return [key for (key,) in db.execute("select key from rate_limits order by key").fetchall()]


def test_a_row_lasts_as_long_as_the_latest_of_its_hits_counts_however_long_that_waited(make_api, world, database_url):
    api = make_api(RATE_LIMIT_WRITES="10 per minute", DATABASE_TIMEOUT="20")
    assert mark(api, 1).status_code == 200
    with closing(psycopg.connect(database_url)) as other:
        other.execute("select from rate_limits for update")
        with in_background(lambda: mark(api, 1)) as answers:
            wait_until_blocked(world)
            [(freed,)] = other.execute("select clock_timestamp()").fetchall()
            other.rollback()
    assert answers[0].status_code == 200
    [(latest, expires_at)] = world.execute("select hits[cardinality(hits)], expires_at from rate_limits").fetchall()
    assert latest > freed
    assert expires_at >= latest + timedelta(minutes=1)


def test_the_table_does_not_grow_with_time(db):
    """A thousand learners make twenty hits each, and every hit expires at once."""
    statement = STATEMENTS["limits/hit"]

    def hits(count: int) -> int:
        with psycopg.RawCursor(db) as cursor:
            # Send a few hits at a time. Hits that are sent together are one transaction, which keeps its dead rows.
            for start in range(0, count, 50):
                rows = [
                    {"key": uuid4(n * 7919 % 1000), "amount": "10", "window": "0"} for n in range(start, start + 50)
                ]
                cursor.executemany(statement.query, [[row[name] for name in statement.parameters] for row in rows])
        # Autovacuum would do this.
        db.execute("vacuum rate_limits")
        return int(db.execute("select pg_total_relation_size('rate_limits')").fetchall()[0][0])

    sizes = [hits(5_000) for _ in range(4)]
    # Autovacuum may come early or late in one round. A table that keeps its dead rows is twice as large after the last.
    assert max(sizes[2:]) <= max(sizes[:2]) * 1.2, sizes
    [(rows, longest)] = db.execute("select count(*), max(cardinality(hits)) from rate_limits").fetchall()
    assert rows <= 1000
    assert longest <= 10


def test_eight_clients_get_exactly_ten_in_any_three_seconds_from_two_gunicorns(gunicorn, world):
    add_module(world, 2, 0x11)
    urls = [gunicorn(RATE_LIMIT_WRITES="10 per 3 seconds", WEB_CONCURRENCY="1") for _ in range(2)]
    assert_exact(hammer(urls, 8), 10, 3)


def test_a_retry_is_let_through_after_retry_after_and_not_a_second_earlier(gunicorn, world):
    add_module(world, 2, 0x11)
    url = gunicorn(RATE_LIMIT_WRITES="2 per 3 seconds", WEB_CONCURRENCY="1")
    first, second, refused = write(url), write(url), write(url)
    assert [first.status, second.status] == [200, 200]
    assert_retry_after(url, 3, first, refused)


def test_threads_of_one_worker_share_the_limit(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="10 per hour")
    statuses: list[int] = []

    def run() -> None:
        client = api.application.test_client(use_cookies=False)
        statuses.extend(mark(client, 1).status_code for _ in range(5))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 10 + [429] * 30
