"""An outage: the database accepts connections and never answers. What callers get, for how long, and what ends it."""

import selectors
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from app import health
from app.database import pool
from app.service import service_of
from tests.conftest import as_service, running_gunicorn
from tests.load import Load, fill
from tests.world import (
    LEARNER,
    SECRET,
    add_module,
    add_user,
    assert_problem,
    bearer,
    impatient,
    mark,
    ok,
    uuid4,
)

TIMEOUT = 2.0  # DATABASE_TIMEOUT, in seconds


def assert_at_once(seconds: list[float]) -> None:
    """Assert that refused requests did not wait for the database. A few may be slow because the machine is busy."""
    assert sorted(seconds)[len(seconds) * 9 // 10] < 0.3
    assert max(seconds) < TIMEOUT


class Relay:
    """Passes connections on to a PostgreSQL. While it is silent, it accepts connections, and no answer comes back.

    With `lets_in`, logins still succeed, as with a PgBouncer that has lost its server. `most` is the largest number of
    connections that were made during a silence and were open at the same time.
    """

    def __init__(self, url: str) -> None:
        parts = conninfo_to_dict(url)
        self.target = f"{parts['host']}/.s.PGSQL.{parts['port']}"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://{parts['user']}@127.0.0.1:{self.listener.getsockname()[1]}/{parts['dbname']}"
        self.silent = False
        self.lets_in = False
        self.most = 0
        self.over = False
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Relay":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True
        self.thread.join()

    def _run(self) -> None:
        peers: dict[socket.socket, socket.socket] = {}
        late: set[socket.socket] = set()  # connections that were made during a silence
        held: list[tuple[socket.socket, bytes]] = []
        selector = selectors.DefaultSelector()
        selector.register(self.listener, selectors.EVENT_READ)
        while not self.over:
            for key, _ in selector.select(0.01):
                source: Any = key.fileobj
                if source is self.listener:
                    client, server = source.accept()[0], socket.socket(socket.AF_UNIX)
                    server.connect(self.target)
                    for one, other in ((client, server), (server, client)):
                        peers[one] = other
                        selector.register(one, selectors.EVENT_READ)
                    if self.silent:
                        late.add(client)
                        self.most = max(self.most, len(late))
                elif source in peers:
                    try:
                        data = source.recv(65536)
                    except OSError:
                        data = b""
                    if data:
                        held.append((peers[source], data))
                    else:
                        late.discard(source)
                        for end in (source, peers.pop(source)):
                            selector.unregister(end)
                            end.close()
                            peers.pop(end, None)
            if not self.silent:
                late.clear()
            for target, data in held[:]:
                # A client first sends the messages of its login. The first byte of a query's message is P or Q.
                login = self.lets_in and {target, peers.get(target)} & late and data[:1] not in (b"P", b"Q")
                if login or not self.silent:
                    held.remove((target, data))
                    with suppress(OSError):  # the other side may have closed the connection
                        target.sendall(data)
        for end in (self.listener, *peers):
            end.close()
        selector.close()


@pytest.fixture
def relay(database_url: str, db: psycopg.Connection) -> Iterator[Relay]:
    fill(db)
    with Relay(as_service(database_url)) as relay:
        yield relay


def timed(url: str) -> tuple[int, float]:
    """Return the status of a GET, and the seconds that it took."""
    started = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        error.close()
        status = error.code
    return status, time.monotonic() - started


def test_while_the_database_never_answers_callers_are_told_so_at_once_and_healthz_answers(relay):
    environ = {"DATABASE_URL": relay.url, "AUTH_JWT_SECRET": SECRET, "DATABASE_TIMEOUT": str(TIMEOUT)}
    environ |= {"WEB_CONCURRENCY": "1", "WEB_THREADS": "4", "RATE_LIMIT_WRITES": "100000 per minute"}
    with running_gunicorn(environ) as service, Load(service.url) as load:
        load.wait_for_more()
        relay.silent = True
        load.wait_for(lambda answers: any(answer.status == 503 for answer in answers))
        # Go on for longer than two attempts of the pool to connect take.
        began = time.monotonic()
        probes = []
        while time.monotonic() < began + 6:
            probes += [timed(f"{service.url}/healthz"), timed(f"{service.url}/readyz")]
            time.sleep(0.1)
        relay.silent = False
        back = time.monotonic()
        load.wait_for_more(1)
        answered = time.monotonic()
        load.wait_for_more()
    refused = [answer for answer in load.answers if answer.status == 503]
    assert {status for status, _ in probes[0::2]} == {200}
    assert {status for status, _ in probes[1::2]} == {503}
    assert_at_once([seconds for _, seconds in probes])
    assert answered - back < 10
    # Requests that were waiting when the outage began waited for the timeout. Later ones were refused at once.
    for answer in load.answers:
        assert answer.status in (200, 503)
        assert answer.seconds < 2 * TIMEOUT
    later = [answer for answer in refused if answer.ended - answer.seconds > began]
    assert len(later) > 100
    assert_at_once([answer.seconds for answer in later])
    assert {answer.document["code"] for answer in later} == {"unavailable"}
    assert {int(answer.retry_after or 0) for answer in later} <= {1, 2}
    assert relay.most == 1


def test_a_probe_that_gives_up_sooner_than_a_request_is_no_outage(make_api, db, database_url, caplog, monkeypatch):
    monkeypatch.setattr(health, "MAX_READYZ_SECONDS", 0.2)
    api = make_api()
    with psycopg.connect(database_url) as other:
        other.execute("lock table _yoyo_migration in access exclusive mode")
        assert api.get("/readyz").status_code == 503
        assert api.get("/api/progress/summary", headers=bearer()).status_code == 403
    assert [record.message for record in caplog.records if record.name == "progress.database"] == []
    assert api.get("/readyz").status_code == 200


def waiting(db: psycopg.Connection) -> bool:
    return db.execute("select from pg_locks where not granted").rowcount > 0


def test_a_statement_that_is_too_slow_is_no_outage(make_api, db, database_url, caplog):
    add_user(db)
    add_module(db, 1, 2)
    api = impatient(make_api(WEB_THREADS="1"))
    with psycopg.connect(database_url) as other:
        other.execute("select from users for update")
        assert_problem(mark(api, 2), "unavailable")
        assert api.get("/api/progress/summary", headers=bearer()).status_code == 200
    assert [record.message for record in caplog.records if record.name == "progress.database"] == []


def test_a_request_whose_statements_together_are_too_slow_is_an_outage_that_nobody_else_notices(
    make_api, db, database_url, caplog, monkeypatch
):
    monkeypatch.setattr(pool, "OUTAGE_GRACE_SECONDS", 5)  # a busy machine may need longer than 0.15 s for a connection
    add_user(db)
    learner = add_user(db, uuid4(0xB0B))
    add_module(db, 1, 2)
    api = make_api(DATABASE_TIMEOUT="1.5", RATE_LIMIT_WRITES="10 per minute")
    answers = []
    with psycopg.connect(database_url) as row, psycopg.connect(database_url) as table:
        row.execute("select from users where id = %s for update", [LEARNER])
        table.execute("lock table rate_limits in access exclusive mode")
        thread = threading.Thread(target=lambda: answers.append(mark(api, 2)))
        thread.start()
        while not waiting(db):
            assert thread.is_alive()
        time.sleep(0.75)  # lock_timeout is 1.2 seconds
        table.rollback()
        statuses = set()
        while thread.is_alive():
            statuses.add(api.get("/api/progress/summary", headers=bearer(learner)).status_code)
        statuses |= {api.get("/api/progress/summary", headers=bearer(learner)).status_code for _ in range(20)}
    assert_problem(answers[0], "unavailable")
    assert statuses == {200}
    assert [record.message.split(",")[0] for record in caplog.records if record.name == "progress.database"] == [
        "the database does not answer: requests are refused until it does",
        "the database answers again",
    ]
    assert ok(mark(api, 2))["completed"] is True


def test_a_pool_whose_connections_are_all_in_use_is_no_outage(make_api, db, caplog):
    add_user(db)
    api = make_api(DATABASE_TIMEOUT="0.2", WEB_THREADS="1")
    with service_of(api.application).pool.connection():
        answer = api.get("/api/progress/summary", headers=bearer())
    assert_problem(answer, "unavailable")
    assert answer.headers["Retry-After"] == "2"
    assert [record.message for record in caplog.records if record.name == "progress.database"] == []


def test_a_connection_that_never_comes_about_is_an_outage_too(make_api, relay):
    relay.silent = True
    api = make_api(DATABASE_URL=relay.url, DATABASE_TIMEOUT=str(TIMEOUT))

    def seconds() -> float:
        started = time.monotonic()
        answer = api.get("/api/progress/summary", headers=bearer(uuid4(0xC0)))
        assert_problem(answer, "unavailable")
        assert answer.headers["Retry-After"] in ("1", "2")
        return time.monotonic() - started

    assert TIMEOUT < seconds() < 2 * TIMEOUT
    assert_at_once([seconds() for _ in range(20)])
    relay.silent = False
    back = time.monotonic()
    while api.get("/api/progress/summary", headers=bearer(uuid4(0xC0))).status_code != 200:
        assert time.monotonic() - back < 10
        time.sleep(0.01)


def test_a_proxy_that_lets_in_while_its_server_is_away_does_not_end_an_outage(make_api, relay):
    api = make_api(DATABASE_URL=relay.url, DATABASE_TIMEOUT=str(TIMEOUT))
    path = "/api/progress/summary"
    assert api.get(path, headers=bearer(uuid4(0xC0))).status_code == 200
    relay.lets_in = True
    relay.silent = True
    assert api.get(path, headers=bearer(uuid4(0xC0))).status_code == 503
    began = time.monotonic()
    seconds = []
    while time.monotonic() < began + 3:
        started = time.monotonic()
        assert api.get(path, headers=bearer(uuid4(0xC0))).status_code == 503
        seconds.append(time.monotonic() - started)
        time.sleep(0.01)
    assert_at_once(seconds)
    relay.silent = False
    back = time.monotonic()
    while api.get(path, headers=bearer(uuid4(0xC0))).status_code != 200:
        assert time.monotonic() - back < 10
        time.sleep(0.01)
