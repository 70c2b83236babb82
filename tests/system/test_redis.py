"""The write limit in Redis: it is as exact as in PostgreSQL, and refuses writes while Redis is away."""

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import free_port
from tests.hammer import assert_exact, assert_retry_after, hammer, write
from tests.world import add_module, add_user, assert_problem, bearer, unmark


@pytest.fixture
def redis(tmp_path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = str(free_port())
    command = ["redis-server", "--port", port, "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        ping = ["redis-cli", "-p", port, "ping"]
        while subprocess.run(ping, capture_output=True, check=False).stdout != b"PONG\n":
            assert time.monotonic() < deadline, "Redis does not answer"
        yield f"redis://127.0.0.1:{port}/0", process
        process.kill()


def test_eight_clients_on_two_gunicorns_get_exactly_ten_in_any_three_seconds(redis, gunicorn, db):
    add_user(db)
    add_module(db, 1, 0x11)
    settings = {"RATE_LIMIT_STORAGE_URI": redis[0], "RATE_LIMIT_WRITES": "10 per 3 seconds"}
    assert_exact(hammer([gunicorn(**settings), gunicorn(**settings)], 8), 10, 3)
    assert db.execute("select count(*) from rate_limits").fetchone() == (0,)


def test_while_redis_is_away_writes_are_503_and_reads_go_on(redis, make_api, db):
    uri, process = redis
    add_user(db)
    add_module(db, 1, 0x11)
    api = make_api(RATE_LIMIT_STORAGE_URI=uri, RATE_LIMIT_WRITES="10 per minute")
    assert unmark(api, 0x11).status_code == 200
    process.kill()
    process.wait()
    assert_problem(unmark(api, 0x11), "unavailable")
    assert api.get("/api/progress/summary", headers=bearer()).status_code == 200


def test_a_redis_that_is_frozen_costs_less_than_the_timeout(redis, make_api, db):
    uri, process = redis
    add_user(db)
    add_module(db, 1, 0x11)
    api = make_api(RATE_LIMIT_STORAGE_URI=uri, RATE_LIMIT_WRITES="10 per minute", DATABASE_TIMEOUT="8")
    assert unmark(api, 0x11).status_code == 200
    process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    assert_problem(unmark(api, 0x11), "unavailable")
    assert time.monotonic() - started < 8
    process.send_signal(signal.SIGCONT)
    assert unmark(api, 0x11).status_code == 200


def test_retry_after_holds_with_redis_too(redis, gunicorn, db):
    add_user(db)
    add_module(db, 1, 0x11)
    url = gunicorn(RATE_LIMIT_STORAGE_URI=redis[0], RATE_LIMIT_WRITES="2 per 3 seconds")
    first, second, refused = write(url), write(url), write(url)
    assert [first.status, second.status] == [200, 200]
    assert_retry_after(url, 3, first, refused)
