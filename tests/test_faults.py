"""Faults under load: the database goes away, workers are killed, replaced and stopped. No answered mark is lost."""

import http.client
import json
import os
import select
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg.pq import TransactionStatus

from app.call import current_call
from app.database import statements
from app.database.connection import Connection
from app.service import service_of
from tests.conftest import (
    SERVICE,
    Gunicorn,
    Postgresql,
    as_service,
    emptying,
    grant,
    migrate,
    running_gunicorn,
    send_signal,
)
from tests.load import Answer, Load, fill, in_table
from tests.test_demo import copy_of_the_checkout
from tests.test_rights import WEBHOOK_SECRET, send
from tests.world import (
    LEARNER,
    SECRET,
    add_module,
    add_user,
    after_outage,
    assert_problem,
    bearer,
    completions,
    get,
    impatient,
    lesson_path,
    mark,
    ok,
    uuid4,
)


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgresql]:
    """Yield a migrated server that a test may kill."""
    with Postgresql() as server:
        migrate(server.url())
        grant(server.url())
        yield server


@pytest.fixture
def own_db(own_postgres: Postgresql) -> Iterator[Postgresql]:
    with closing(psycopg.connect(own_postgres.url(), autocommit=True)) as db:
        db.execute(emptying(db).encode())
        fill(db)
    return own_postgres


@pytest.fixture(scope="module")
def running_service(own_postgres: Postgresql) -> Iterator[Callable[[], Gunicorn]]:
    """Yield a function that returns a service. It starts another one only if a test has stopped the last one."""
    environ = {"DATABASE_URL": as_service(own_postgres.url()), "AUTH_JWT_SECRET": SECRET, "RATE_LIMIT_WRITES": ""}
    started: list[Gunicorn] = []
    with ExitStack() as stack:

        def service() -> Gunicorn:
            if not started or started[-1].process.poll() is not None:
                settings = environ | {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}
                started.append(stack.enter_context(running_gunicorn(settings)))
            return started[-1]

        yield service


@pytest.fixture
def service(own_db: Postgresql, running_service: Callable[[], Gunicorn]) -> Gunicorn:
    return running_service()


def assert_nothing_lost(load: Load, postgres: Postgresql) -> None:
    with closing(psycopg.connect(postgres.url(), autocommit=True)) as db:
        assert load.marked() - in_table(db) == set()
    assert load.marked()


def assert_answered_or_unavailable(answers: list[Answer]) -> None:
    for answer in answers:
        assert answer.status in (200, 503), answer
        if answer.status == 503:
            assert answer.document["code"] == "unavailable"
            assert int(answer.retry_after or 0) >= 1
        assert answer.seconds < 10  # DATABASE_TIMEOUT is 5; the machine may be slow


def assert_answered_or_cut_off(answers: list[Answer]) -> None:
    """Assert that each call succeeded, or that its connection was refused or ended before any byte of an answer."""
    for answer in answers:
        assert answer.status == 200 or isinstance(answer.error, ConnectionError), answer


def test_postgresql_is_stopped_at_once_and_started_again(service, own_db):
    workers = service.workers()
    with Load(service.url) as load:
        load.wait_for_more()
        own_db.terminate(signal.SIGQUIT)
        load.wait_for(lambda answers: {answer.method for answer in answers if answer.status == 503} == {"POST", "GET"})
        own_db.start()
        back = time.monotonic()
        load.wait_for_more(1)
        assert time.monotonic() - back < 10
        load.wait_for(lambda answers: len(answers) > 100 and {answer.status for answer in answers[-50:]} == {200})
    assert_answered_or_unavailable(load.answers)
    assert_nothing_lost(load, own_db)
    assert service.workers() == workers
    assert service.process.poll() is None


def test_a_worker_is_killed(service, own_db):
    workers = service.workers()
    with Load(service.url) as load:
        load.wait_for_more()
        victim = min(workers)
        os.kill(victim, signal.SIGKILL)
        load.wait_for(lambda _: len(service.workers()) == 2 and victim not in service.workers())
        load.wait_for_more(200)
    # A call that the killed worker had begun may be cut off at any place, even in the middle of an answer.
    for answer in load.answers:
        assert answer.status == 200 or isinstance(answer.error, (ConnectionError, http.client.IncompleteRead)), answer
    assert_nothing_lost(load, own_db)


def backends(postgres: Postgresql) -> list[int]:
    with closing(psycopg.connect(postgres.url(), autocommit=True)) as db:
        rows = db.execute(
            "select pid from pg_stat_activity where application_name = 'progress-tracking' order by pid"
        ).fetchall()
        return [pid for (pid,) in rows]


def test_a_backend_of_postgresql_is_killed(service, own_db):
    workers = service.workers()
    with Load(service.url) as load:
        load.wait_for_more()
        before = backends(own_db)
        os.kill(before[0], signal.SIGKILL)  # PostgreSQL then ends all other backends, and recovers
        load.wait_for(lambda _: not any(Path(f"/proc/{pid}").exists() for pid in before))
        load.wait_for(lambda answers: len(answers) > 100 and {answer.status for answer in answers[-50:]} == {200})
    assert_answered_or_unavailable(load.answers)
    assert_nothing_lost(load, own_db)
    assert service.workers() == workers


def test_connections_that_are_ended_cost_a_write_each_at_most_and_no_read(service, own_db):
    with Load(service.url) as load:
        load.wait_for_more()
        ended = backends(own_db)
        with closing(psycopg.connect(own_db.url(), autocommit=True)) as db:
            db.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", [ended])
        load.wait_for_more(300)
    assert_answered_or_unavailable(load.answers)
    failed = [answer.method for answer in load.answers if answer.status == 503]
    assert set(failed) <= {"POST"}
    assert len(failed) <= len(ended)
    assert_nothing_lost(load, own_db)


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_reload_fails_no_request(service, own_db, keep_alive):
    workers = service.workers()
    with Load(service.url, keep_alive) as load:
        load.wait_for_more()
        service.process.send_signal(signal.SIGHUP)
        load.wait_for(lambda _: len(service.workers()) == 2 and not service.workers() & workers)
        load.wait_for_more()
    assert {(answer.status, answer.error) for answer in load.answers} == {(200, None)}
    assert_nothing_lost(load, own_db)


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_stop_fails_only_what_it_has_not_begun_to_answer(service, own_db, keep_alive):
    with Load(service.url, keep_alive) as load:
        load.wait_for_more()
        service.process.terminate()
        assert service.process.wait(20) == 0
    assert_answered_or_cut_off(load.answers)
    assert_nothing_lost(load, own_db)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_running_is_answered_whatever_the_service_is_told(own_db, told, capfd):
    environ = {"DATABASE_URL": as_service(own_db.url()), "AUTH_JWT_SECRET": SECRET, "LOG_LEVEL": "info"}
    answers: list[int] = []

    def write(client: int) -> None:
        path = f"{running.url}/api/progress/lessons/{uuid4(0x1000)}"
        request = urllib.request.Request(path, method="POST", headers=bearer(uuid4(0xC0 + client)))
        with urllib.request.urlopen(request, timeout=60) as response:
            answers.append(json.load(response)["overall"]["completedCount"])

    with running_gunicorn(environ | {"WEB_CONCURRENCY": "1", "DATABASE_TIMEOUT": "20"}) as running:
        with (
            psycopg.connect(own_db.url()) as other,
            closing(psycopg.connect(own_db.url(), autocommit=True)) as db,
        ):
            other.execute("select from users for update")
            threads = [threading.Thread(target=write, args=(client,)) for client in range(4)]
            for thread in threads:
                thread.start()
            while db.execute("select from pg_locks where not granted").rowcount < 4:
                assert all(thread.is_alive() for thread in threads)
            running.process.send_signal(told)
            said = ""
            while "Handling signal" not in said:
                said += capfd.readouterr().err
        for thread in threads:
            thread.join()
        assert answers == [1, 1, 1, 1]
        if told == signal.SIGTERM:
            assert running.process.wait(20) == 0


def test_a_reload_that_could_not_be_a_start_is_refused_and_the_service_goes_on(tmp_path, own_db, capfd):
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    environ = {"DATABASE_URL": as_service(own_db.url()), "AUTH_JWT_SECRET": SECRET, "WEB_CONCURRENCY": "1"}
    with running_gunicorn(environ | {"RATE_LIMIT_WRITES": ""}, checkout) as service:
        workers = service.workers()
        (checkout / "migrations" / "0099_next.sql").write_text("select 1;\n")
        with Load(service.url) as load:
            load.wait_for_more()
            service.process.send_signal(signal.SIGHUP)
            said = ""
            while "not reloaded" not in said:
                said += capfd.readouterr().err
            load.wait_for_more()
        assert "pending migrations: 0099_next; apply them with: make migrate" in said
        assert {(answer.status, answer.error) for answer in load.answers} == {(200, None)}
        assert service.workers() == workers


@pytest.mark.parametrize("told_before", [None, signal.SIGHUP], ids=["serving", "reloading"])
def test_a_stop_is_done_in_30_seconds_while_the_database_is_frozen(service, own_db, told_before):
    statuses: list[int] = []

    def write(client: int) -> None:
        path = f"{service.url}/api/progress/lessons/{uuid4(0x1000)}"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(urllib.request.Request(path, method="POST", headers=bearer(uuid4(0xC0 + client))))
        statuses.append(error.value.code)
        error.value.close()

    threads = [threading.Thread(target=write, args=(client,)) for client in range(4)]
    first = own_db.server_pid
    with psycopg.connect(own_db.url()) as other, closing(psycopg.connect(own_db.url(), autocommit=True)) as db:
        other.execute("select from users for update")
        for thread in threads:
            thread.start()
        while db.execute("select from pg_locks where not granted").rowcount < 4:
            assert all(thread.is_alive() for thread in threads)
        frozen = [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        try:
            send_signal(frozen, signal.SIGSTOP)
            if told_before:
                service.process.send_signal(told_before)
            began = time.monotonic()
            service.process.terminate()
            assert service.process.wait(60) == 0
            assert time.monotonic() - began < 30
        finally:
            send_signal(frozen, signal.SIGCONT)
    for thread in threads:
        thread.join()
    assert statuses == [503] * 4


def test_a_worker_that_is_replaced_while_the_database_is_away_comes_up(service, own_db):
    own_db.terminate(signal.SIGQUIT)
    try:
        victim = min(service.workers())
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(service.workers()) != 2 or victim in service.workers():
            assert time.monotonic() < deadline
            assert service.process.poll() is None
            time.sleep(0.02)
    finally:
        own_db.start()
    with Load(service.url) as load:
        load.wait_for_more()


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_server_that_is_frozen_costs_the_timeout_and_no_more(make_api, own_db, method):
    api = make_api(DATABASE_URL=as_service(own_db.url()), DATABASE_TIMEOUT="0.8", WEB_THREADS="1")
    headers = bearer(uuid4(0xC0))
    assert api.get("/api/progress/summary", headers=headers).status_code == 200
    with service_of(api.application).pool.connection() as connection:
        backend = connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        started = time.monotonic()
        path = f"/api/progress/lessons/{uuid4(0x1000)}" if method == "DELETE" else "/api/progress/summary"
        assert_problem(api.open(path, method=method, headers=headers), "unavailable")
        assert time.monotonic() - started < 10  # without a deadline the call would wait for ever
        # A new connection answers, because the old one was closed.
        ok(after_outage(lambda: api.delete(lesson_path(0x1000), headers=headers)))
    finally:
        os.kill(backend, signal.SIGCONT)
    assert api.get("/api/progress/summary", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "webhook"])
@pytest.mark.parametrize("end", ["terminated", "timed out"])
def test_a_connection_that_was_ended_while_it_was_idle_costs_no_call(make_api, db, end, method):
    add_user(db)
    add_module(db, 1, 2)
    settings = {"WEB_THREADS": "3", "RATE_LIMIT_WRITES": "10 per minute", "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET}
    api = make_api(**settings)
    pool = service_of(api.application).pool
    with ExitStack() as stack:  # make the pool open three connections, each of which could spoil a call
        idle = [stack.enter_context(pool.connection()) for _ in range(3)]
        if end == "timed out":
            for connection in idle:
                connection.execute("set idle_session_timeout = 100")  # in milliseconds
    if end == "terminated":
        pids = [connection.info.backend_pid for connection in idle]
        db.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", [pids])
    for connection in idle:
        assert select.select([connection.pgconn.socket], [], [], 10)[0]
    if method == "webhook":
        assert (
            send(api, "customer.subscription.updated", {"id": "sub_1", "customer": "cus_1", "status": "active"}, 1)
            == 200
        )
    else:
        path = "/api/progress/summary" if method == "GET" else f"/api/progress/lessons/{uuid4(2)}"
        assert api.open(path, method=method, headers=bearer()).status_code == 200


def test_a_connection_on_which_the_server_said_something_else_is_replaced_too(make_api, db):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(WEB_THREADS="1")
    pool = service_of(api.application).pool
    with pool.connection() as connection:
        connection.execute("listen something")
        before = connection.info.backend_pid
    db.execute("notify something")
    select.select([connection.pgconn.socket], [], [])
    assert ok(mark(api, 2))["completed"] is True
    with pool.connection() as connection:
        assert connection.info.backend_pid != before


def test_a_server_that_speaks_on_every_new_connection_is_used_all_the_same(make_api, db, monkeypatch):
    add_user(db)
    add_module(db, 1, 2)
    monkeypatch.setattr(Connection, "spoke_unasked", lambda _: True)
    assert ok(mark(make_api(WEB_THREADS="2"), 2))["completed"] is True


def test_connections_are_kept(make_api, db):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(WEB_THREADS="1", RATE_LIMIT_WRITES="100 per minute")
    pool = service_of(api.application).pool
    with pool.connection() as connection:
        before = connection.info.backend_pid
    for _ in range(20):  # psycopg prepares a statement after a few runs, and the server may then choose a generic plan
        assert ok(mark(api, 2))["completed"] is True
        get(api, "summary")
    with pool.connection() as connection:
        assert connection.info.backend_pid == before


def test_a_hit_of_the_limit_whose_connection_is_lost_is_sent_again(make_api, db, database_url):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(RATE_LIMIT_WRITES="10 per minute")
    answers = []
    waiting = "select pid from pg_locks where not granted"
    with psycopg.connect(database_url) as other:
        other.execute("lock table rate_limits in access exclusive mode")
        thread = threading.Thread(target=lambda: answers.append(mark(api, 2)))
        thread.start()
        while not db.execute(waiting).rowcount:
            assert thread.is_alive()
        db.execute(f"select pg_terminate_backend(({waiting}), 5000)")
        while not db.execute(waiting).rowcount:
            assert thread.is_alive()
    thread.join()
    assert ok(answers[0])["completed"] is True


def test_a_lock_that_somebody_else_holds_costs_the_timeout_and_not_the_connection(make_api, db, database_url):
    add_user(db)
    add_module(db, 1, 2)
    api = impatient(make_api(WEB_THREADS="1"))
    pool = service_of(api.application).pool
    with pool.connection() as connection:
        before = connection.info.backend_pid
    with psycopg.connect(database_url) as other:
        other.execute("select from users for update")  # the other connection never releases the row
        assert_problem(mark(api, 2), "unavailable")
    with pool.connection() as connection:
        assert connection.info.backend_pid == before
    assert ok(mark(api, 2))["completed"] is True


def test_a_deadlock_is_tried_again_and_not_shown(api, db, database_url):
    add_user(db)
    add_module(db, 1, 2)
    answers = []
    with psycopg.connect(database_url) as other:
        # PostgreSQL ends the transaction whose deadlock_timeout is over first. This makes it the service's.
        other.execute("set deadlock_timeout = '1h'")
        other.execute("select from lessons for update")
        thread = threading.Thread(target=lambda: answers.append(mark(api, 2)))
        thread.start()
        while not db.execute("select from pg_locks where not granted").rowcount:
            assert thread.is_alive()
        other.execute("select from users for update")
    thread.join()
    assert ok(answers[0])["completed"] is True


def test_a_lesson_that_is_deleted_while_it_is_marked_is_not_found(api, db, database_url):
    add_user(db)
    add_module(db, 1, 2)
    answers = []
    with psycopg.connect(database_url) as other:
        other.execute("delete from lessons")
        thread = threading.Thread(target=lambda: answers.append(mark(api, 2)))
        thread.start()
        while not db.execute("select from pg_locks where not granted").rowcount:
            assert thread.is_alive()
    thread.join()
    assert_problem(answers[0], "lesson_not_found")


# The statements of a write: lock, mark, lesson and commit, which are sent together

WRITE: list[tuple[str, dict[str, str | None]]] = [
    ("lock", {"user_id": LEARNER}),
    ("mark", {"user_id": LEARNER, "lesson_id": uuid4(2), "completed_at": None}),
    ("lesson", {"user_id": LEARNER, "lesson_id": uuid4(2)}),
]


def assert_clean(api: FlaskClient, db: psycopg.Connection) -> None:
    """Assert that nothing of a write was stored, and that its connection can be used for the next one."""
    assert completions(db) == []
    (connection,) = service_of(api.application).pool._pool
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert ok(mark(api, 2))["completed"] is True


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("place", range(3))
def test_a_statement_that_fails_takes_the_whole_write_with_it_and_is_named(make_api, db, monkeypatch, place, soon):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(WEB_THREADS="1")
    calls = [(name, {**given, "user_id": "odd"} if at == place else given) for at, (name, given) in enumerate(WRITE)]
    run = statements.run

    def run_and_wait_for_the_error(connection, name, **parameters):
        """Do as `run`. After the wrong statement, wait for its error before the next statement is sent."""
        cursor = run(connection, name, **parameters)
        if parameters["user_id"] == "odd":
            select.select([connection.pgconn.socket], [], [])
        return cursor

    if soon:
        monkeypatch.setattr(statements, "run", run_and_wait_for_the_error)
    for _ in range(10):  # psycopg prepares a statement after a few runs
        with api.application.app_context():
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                service_of(api.application).pool.transaction(*calls)
            assert current_call().statement == WRITE[place][0]
    monkeypatch.undo()
    assert_clean(api, db)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("place", range(3))
def test_who_is_interrupted_in_a_write_leaves_nothing_of_it(make_api, db, monkeypatch, error, place):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(WEB_THREADS="1")
    run = statements.run

    def interrupted(connection, name, **parameters):
        if name == WRITE[place][0]:
            raise error
        return run(connection, name, **parameters)

    monkeypatch.setattr(statements, "run", interrupted)
    with api.application.app_context(), pytest.raises(error):
        service_of(api.application).pool.transaction(*WRITE)
    monkeypatch.undo()
    assert_clean(api, db)


@pytest.fixture
def at_commit(db) -> Iterator[Callable[[str], None]]:
    """Yield a function that makes the commit of every write run some SQL, as a deferred trigger of the site may."""

    def do(statement: str) -> None:
        db.execute(
            f"create function at_commit() returns trigger language plpgsql as 'begin {statement}; return null; end';"
            " create constraint trigger at_commit after insert on progress deferrable initially deferred"
            " for each row execute function at_commit()"
        )

    yield do
    db.execute("drop trigger if exists at_commit on progress; drop function if exists at_commit")


@pytest.mark.parametrize(
    ("statement", "code", "error"),
    [
        ("raise exception using errcode = ''check_violation''", "internal_error", "CheckViolation 23514"),
        ("raise exception using errcode = ''query_canceled''", "unavailable", "QueryCanceled 57014"),
        # Errors of Citus: a node went away.
        *(
            (f"raise exception ''{text}'' using errcode = ''internal_error''", "unavailable", "LostNodeError")
            for text in (
                "failure on connection marked as essential: 10.0.0.7:5432",
                "could not commit transaction for shard 102008 on any active node",
                "server closed the connection unexpectedly",
            )
        ),
        # The same SQLSTATE from PostgreSQL itself is a fault.
        (
            "raise exception ''cache lookup failed for relation 1'' using errcode = ''internal_error''",
            "internal_error",
            "InternalError_ XX000",
        ),
        # The service gives up after four attempts.
        ("raise exception using errcode = ''serialization_failure''", "unavailable", "SerializationFailure 40001"),
    ],
)
def test_a_commit_that_fails_is_no_success(make_api, db, at_commit, caplog, statement, code, error):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(WEB_THREADS="1")
    at_commit(statement)
    with caplog.at_level("INFO", "progress.requests"):
        assert_problem(mark(api, 2), code)
    fields = caplog.records[-1].__dict__["fields"]
    assert (fields["error"], fields["statement"]) == (error, "commit")
    db.execute("drop trigger at_commit on progress")
    assert_clean(api, db)


def test_a_connection_that_is_lost_in_a_commit_is_no_success(make_api, db, at_commit, caplog):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(WEB_THREADS="1")
    at_commit("perform pg_terminate_backend(pg_backend_pid())")
    with caplog.at_level("INFO", "progress.requests"):
        assert_problem(mark(api, 2), "unavailable")
    assert caplog.records[-1].__dict__["fields"]["statement"] == "lock+may_mark"
    assert completions(db) == []
    db.execute("drop trigger at_commit on progress")
    assert ok(mark(api, 2))["completed"] is True


def test_a_commit_that_takes_too_long_is_no_success_even_if_it_is_done_then(make_api, db, at_commit):
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(DATABASE_TIMEOUT="0.3")
    at_commit("perform set_config(''lock_timeout'', ''0'', true); perform pg_advisory_xact_lock(1)")
    with db.transaction():
        db.execute("select pg_advisory_xact_lock(1)")
        assert_problem(mark(api, 2), "unavailable")
    released = time.monotonic()
    while not completions(db):
        assert time.monotonic() - released < 10
    assert ok(after_outage(lambda: mark(api, 2)))["completed"] is True


def test_out_of_connections_is_unavailable_at_once_and_over_when_there_are_some(make_api, db, database_url):
    add_user(db)
    api = make_api(WEB_THREADS="1")
    # After this call the pool has its connection. No other one is being opened, which drain() would miss.
    assert api.get("/api/progress/summary", headers=bearer(LEARNER)).status_code == 200
    db.execute(f"alter role {SERVICE} connection limit 0")
    try:
        service_of(api.application).pool.drain()
        started = time.monotonic()
        answers = [api.get("/api/progress/summary", headers=bearer(LEARNER)) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 503]
        assert time.monotonic() - started < 10  # if the service did not notice, each call would wait for 5 seconds
    finally:
        db.execute(f"alter role {SERVICE} connection limit -1")
    ok(after_outage(lambda: api.get("/api/progress/summary", headers=bearer(LEARNER))))
