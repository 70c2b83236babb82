"""What operators see: the probes, the metrics and the log."""

import contextlib
import io
import json
import logging
import re
import select
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import stripe
from flask.testing import FlaskClient

from app import logs
from app.database import statements
from app.logs import JsonFormatter, ReadableFormatter
from app.service import service_of
from tests.conftest import ROOT, SERVICE, grant, running_gunicorn
from tests.world import (
    LEARNER,
    SECRET,
    add_module,
    add_user,
    assert_problem,
    bearer,
    cookie,
    impatient,
    lesson_path,
    mark,
    token,
    unmark,
    uuid4,
)

SUMMARY = "/api/progress/summary"


def records(caplog):
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


# Health


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_session(api, path):
    answer = api.get(path)
    assert (answer.status_code, answer.content_type, answer.json) == (200, "application/json", {"status": "ok"})
    assert not {"Cache-Control", "Vary", "ETag"} & set(answer.headers.keys())
    assert (api.head(path).status_code, api.head(path).data) == (200, b"")
    assert api.post(path).status_code == 405


def test_without_a_free_connection_it_is_alive_and_not_ready(make_api, db):
    api = make_api(DATABASE_TIMEOUT="0.2", WEB_THREADS="1")
    with service_of(api.application).pool.connection():
        assert api.get("/healthz").status_code == 200
        answer = api.get("/readyz")
    assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "unavailable", "2")
    assert api.get("/readyz").status_code == 200


def test_it_is_not_ready_while_a_migration_is_pending(make_api, db):
    api = make_api()
    service_of(api.application).migrations.append("0099_next")
    assert api.get("/readyz").json["detail"] == "Pending migrations: 0099_next. Apply them with: make migrate"


def test_it_is_ready_on_a_newer_schema(make_api, db):
    api = make_api()
    service_of(api.application).migrations.pop()
    assert api.get("/readyz").status_code == 200


# Logs


def test_a_request_is_one_line(api, db, caplog):
    add_user(db)
    with caplog.at_level("INFO"):
        answer = api.get(f"/api/progress/modules/{uuid4(7)}?token=se-cret", headers=bearer())
    (line,) = records(caplog)
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", line.pop("time"))
    assert 0 < line.pop("duration_ms") < 10_000
    pids = [pid for (pid,) in db.execute("select pid from pg_stat_activity where pid <> pg_backend_pid()").fetchall()]
    assert line.pop("backend_pid") in pids
    assert line == {
        "level": "info",
        "method": "GET",
        "route": "/api/progress/modules/<module_id>",
        "status": 404,
        "request_id": answer.headers["X-Request-Id"],
        "user_id": LEARNER,
        "code": "module_not_found",
    }


def test_the_statement_that_failed_is_in_the_line(make_api, db, database_url, caplog):
    add_user(db)
    add_module(db, 1, 2)
    api = impatient(make_api(RATE_LIMIT_WRITES="10 per minute", WEB_THREADS="1"))
    with psycopg.connect(database_url) as other, caplog.at_level("INFO", "progress.requests"):
        other.execute("select from users for update")
        mark(api, 2)
        other.rollback()
        other.execute("lock table progress in access exclusive mode")
        unmark(api, 2)
        api.get(SUMMARY, headers=bearer())
        other.execute("lock table rate_limits in access exclusive mode")
        unmark(api, 2)
    seen = [(line["level"], line["status"], line["error"], line["statement"]) for line in records(caplog)]
    assert seen == [
        ("error", 503, "LockNotAvailable 55P03", "lock"),
        ("error", 503, "LockNotAvailable 55P03", "unmark"),
        ("error", 503, "LockNotAvailable 55P03", "summary"),
        ("error", 503, "LockNotAvailable 55P03", "limits/hit"),
    ]


@pytest.fixture
def stdout() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Configure the log as the service does. Yield a function that returns the lines that were logged."""
    loggers = [logging.getLogger(name) for name in ("", "psycopg", "psycopg.pool")]
    levels, handlers = [logger.level for logger in loggers], loggers[0].handlers[:]
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        logs.configure("info", JsonFormatter())
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_write_that_fails_before_all_of_it_was_sent_is_one_line_too(make_api, db, database_url, monkeypatch, stdout):
    add_user(db)
    add_module(db, 1, 2)
    run = statements.run

    def run_and_wait_for_the_answer(connection, name, **parameters):
        cursor = run(connection, name, **parameters)
        select.select([connection.pgconn.socket], [], [])
        return cursor

    monkeypatch.setattr(statements, "run", run_and_wait_for_the_answer)
    db.execute(f"revoke update (id) on users from {SERVICE}")
    try:
        assert_problem(mark(make_api(), 2), "internal_error")
    finally:
        grant(database_url)
    (line,) = stdout()
    assert (line["status"], line["error"], line["statement"]) == (500, "InsufficientPrivilege 42501", "lock")


def test_a_failure_of_the_service_is_one_line_with_its_traceback(api, db, monkeypatch, caplog):
    monkeypatch.setattr(statements, "run", lambda *_, **__: 1 / 0)
    with caplog.at_level("INFO"):
        assert_problem(api.get(SUMMARY, headers=bearer()), "internal_error")
    (line,) = records(caplog)
    assert (line["level"], line["status"], line["error"]) == ("error", 500, "ZeroDivisionError")
    assert line["traceback"].startswith("Traceback (most recent call last):")


def refused(make_api, db, monkeypatch, before: Callable[[Any], Any]) -> Any:
    """Return the answer to a write over the limit.

    `before` gets the connection on which the service then asks for the window of the limit.
    """
    add_user(db)
    add_module(db, 1, 2)
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    run = statements.run

    def run_after(connection, name, **parameters):
        if name == "limits/window":
            parameters |= before(connection)
        return run(connection, name, **parameters)

    monkeypatch.setattr(statements, "run", run_after)
    assert mark(api, 2).status_code == 200
    return mark(api, 2)


def test_a_database_that_goes_away_before_retry_after_is_known_is_503(make_api, db, monkeypatch, stdout):
    def end(connection):
        db.execute("select pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
        return {}

    answer = refused(make_api, db, monkeypatch, end)
    assert_problem(answer, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    line = stdout()[-1]  # the lines before it are the pool's
    assert (line["status"], line["error"], line["statement"]) == (503, "AdminShutdown 57P01", "limits/window")
    assert "traceback" not in line


def test_what_fails_in_an_error_handler_is_one_line_that_names_it(make_api, db, monkeypatch, stdout):
    answer = refused(make_api, db, monkeypatch, lambda _: 1 / 0)
    assert_problem(answer, "internal_error")
    _, line = stdout()
    assert (line["status"], line["error"], line["statement"]) == (500, "ZeroDivisionError", "limits/window")
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("ZeroDivisionError: division by zero\n")
    assert "flask_limiter.errors.RateLimitExceeded: 429 Too Many Requests" in line["traceback"]


def test_what_postgresql_says_in_an_error_handler_is_not_quoted(make_api, db, monkeypatch, stdout):
    answer = refused(make_api, db, monkeypatch, lambda _: {"amount": "se-cret"})
    assert_problem(answer, "internal_error")
    _, line = stdout()
    assert (line["error"], line["code"]) == ("InvalidTextRepresentation 22P02", "internal_error")
    assert "in get_moving_window" in line["traceback"]
    assert line["traceback"].endswith("\nInvalidTextRepresentation 22P02\n")
    assert "se-cret" not in json.dumps(line)


@pytest.mark.parametrize("times", [1, 2])
def test_what_fails_after_a_request_is_one_line_that_names_it(make_api, db, stdout, times):
    """With `times` 2, the hook fails again for the answer to its first failure."""
    api = make_api()
    failures = [lambda: int("se-cret")] * times

    def fail(response):
        if failures:
            failures.pop()()
        return response

    api.application.after_request(fail)
    # The tests' own client would refuse this answer. No hook has seen it, so it lacks headers that the contract
    # promises.
    answer = FlaskClient(api.application).get(f"/api/progress/modules/{uuid4(7)}", headers=bearer())
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")
    (line,) = stdout()
    assert line["level"] == "error"
    assert line["traceback"].endswith("ValueError: invalid literal for int() with base 10: 'se-cret'\n")
    assert uuid4(7) not in json.dumps(line)
    if times == 1:
        assert (line["status"], line["error"]) == (500, "ValueError")
        assert line["request_id"] == answer.headers["X-Request-Id"]


def test_a_traceback_has_no_text_of_postgresql_nor_of_what_may_quote_it(db):
    value = "se-cret"

    def fail():
        try:
            try:
                raise ValueError("before")
            except ValueError:
                db.execute("select %s::text::int", [value])
        except psycopg.Error as error:
            raise LookupError(str(error)) from error

    with pytest.raises(LookupError, match=value) as caught:
        fail()
    told = logs.describe(caught.value)
    assert re.findall(r"^(?!Traceback|During|  ).+$", told, re.M) == [
        "ValueError: before",
        "InvalidTextRepresentation 22P02",
        "LookupError",
    ]
    assert value not in told


@pytest.mark.parametrize("given", ["a", "01J-x_y.z:1/2+3=@", "a" * 128])
def test_a_sane_request_id_is_taken(api, given, caplog):
    with caplog.at_level("INFO"):
        assert api.get("/nowhere", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given
    assert records(caplog)[0]["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "é", "a\tb", '{"a": 1}', "<script>"])
def test_any_other_is_not(api, given):
    made = api.get("/nowhere", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def send(url: str, sent: bytes) -> bytes:
    """Send bytes, which may be no HTTP. Return the status line of the answer."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(sent)
        return connection.makefile("rb").readline()


@pytest.fixture
def telling(db) -> Iterator[None]:
    """Create a trigger, as a site may, that fails with an error that contains personal data."""
    db.execute(
        "create function tell() returns trigger language plpgsql as $$ begin raise exception 'ada@example.org'"
        " using detail = 'se-cret'; end $$; create trigger tell before insert on progress for each row"
        " execute function tell()"
    )
    yield
    db.execute("drop trigger tell on progress; drop function tell")


@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_line_has_a_secret_whatever_comes_and_each_is_one(environ, db, telling, level, capfd):
    add_user(db)
    add_module(db, 1, 2)
    session = cookie()
    event = json.dumps({"type": "invoice.paid", "id": "evt_1", "data": {"object": {"email": "ada@example.org"}}})
    signature = stripe.WebhookSignature.generate_signature_header(event, "whsec_se-cret")
    secrets = [token(), token(exp=1), session["Cookie"].partition("=")[2], SECRET, "ada@example.org", "se-cret"]
    secrets += [signature, signature.rpartition("=")[2]]
    bearer_token = {"Authorization": f"Bearer {secrets[0]}"}
    settings = {"WEB_CONCURRENCY": "1", "AUTH_SECRET": SECRET, "STRIPE_WEBHOOK_SECRET": "whsec_se-cret"}
    settings |= {"RATE_LIMIT_WRITES": "2 per minute", "LOG_LEVEL": level}
    with running_gunicorn(environ | settings) as service:
        calls: list[tuple[str, str, dict[str, str]]] = [
            ("GET", SUMMARY, bearer_token),
            ("GET", f"{SUMMARY}?email=ada@example.org", {"Authorization": f"Bearer {secrets[1]}"}),
            ("GET", SUMMARY, session),
            ("GET", "/se-cret/ada@example.org", {"X-Request-Id": "se-cret ada@example.org"}),
            ("POST", lesson_path(2), bearer_token | {"Idempotency-Key": "se-cret"}),
            ("POST", "/api/progress/lessons/se-cret", bearer_token),
            ("POST", lesson_path(2), bearer_token),
            ("PURGE", "/", {}),
            ("POST", "/api/stripe/webhook", {"Stripe-Signature": signature}),
            ("POST", "/api/stripe/webhook", {"Stripe-Signature": "se-cret"}),
        ]
        for method, path, headers in calls:
            body = event.encode() if "stripe" in path else None
            request = urllib.request.Request(service.url + path, body, method=method, headers=headers)
            try:
                urllib.request.urlopen(request).close()
            except urllib.error.HTTPError as error:
                error.close()
        odd = [
            b"GET /a b?token=se-cret HTTP/1.1\r\n\r\n",
            b"GET /?token=se-cret HTTP/1.1 se-cret\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nBearer " + secrets[0].encode() + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization se-cret: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: se-cret\r\n\r\n",
            b"se-cret:'x /ada@example.org HTTP/1.1\r\n\r\n",
        ]
        for sent in odd:
            assert re.match(rb"HTTP/1.1 (400|501) ", send(service.url, sent)), sent
        lines = service.lines()
    probes = [line["status"] for line in lines if line.get("route") == "/healthz"]
    assert set(probes) == {200}
    requests = [line for line in lines if line.get("route", "/healthz") != "/healthz"]
    assert [line["status"] for line in requests] == [200, 401, 200, 404, 500, 400, 429, 404, 200, 400]
    if level == "info":
        assert [line for line in lines if "route" not in line] == []
    said = capfd.readouterr().err
    assert said.count("Invalid request from ip=127.0.0.1") == len(odd)
    for secret in secrets:
        assert secret not in json.dumps(lines) + said


def test_gunicorns_own_log_does_not_quote_a_request_that_it_failed_at(stdout):
    logger = logging.getLogger("gunicorn.error")
    logger.error("Error handling request %s %s", "GET", "/se-cret?token=se-cret")
    logger.error("Error handling request (no URI read)")
    logger.error("Worker (pid:%s) was sent %s!", 7, "SIGKILL")
    said = [line["message"] for line in stdout()]
    assert said == [
        "Error handling request",
        "Error handling request (no URI read)",
        "Worker (pid:7) was sent SIGKILL!",
    ]


def test_the_pool_says_the_same_once_a_minute(stdout):
    logger = logging.getLogger("psycopg.pool")
    for reason in ("refused", "refused", "starting up", "refused"):
        logger.warning("error connecting in %r: %s", "progress", reason)
    assert [line["message"].rpartition(": ")[2] for line in stdout()] == ["refused", "starting up"]


def test_with_the_log_level_error_requests_are_not_logged(environ, db):
    """The test above shows the lines of the levels debug and info."""
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "1", "LOG_LEVEL": "error"}) as service:
        with pytest.raises(urllib.error.HTTPError, match="404") as error:
            urllib.request.urlopen(f"{service.url}/nowhere")
        error.value.close()
        assert service.lines() == []


def test_people_get_a_line_that_they_can_read(api, caplog):
    with caplog.at_level("INFO"):
        api.get(SUMMARY)
    line = ReadableFormatter().format(caplog.records[0])
    assert re.fullmatch(r"[0-9:]{8} GET /api/progress/summary 401 [0-9]+ ms unauthenticated no session", line)


# Metrics


def metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_metrics_are_of_all_workers_together(environ, db):
    add_user(db)
    add_module(db, 1, 2)
    settings = {"WEB_CONCURRENCY": "2", "METRICS": "on", "RATE_LIMIT_WRITES": "1 per minute"}
    with running_gunicorn(environ | settings) as service:

        def call(method, path):
            request = urllib.request.Request(service.url + path, method=method, headers=bearer())
            try:
                urllib.request.urlopen(request).close()
            except urllib.error.HTTPError as error:
                error.close()

        for _ in range(40):  # with so many calls, each worker answers some of them
            call("GET", SUMMARY)
        for _ in range(3):
            call("POST", lesson_path(2))
        call("GET", "/nowhere")
        seen = metrics(service.url)
    assert seen['progress_requests_total{endpoint="summary",status="200"}'] == 40
    assert seen['progress_requests_total{endpoint="mark",status="429"}'] == 2
    assert seen['progress_requests_total{endpoint="none",status="404"}'] == 1
    assert seen["progress_rate_limited_writes_total"] == 2
    for bound in ("0.1", "0.15"):
        assert f'progress_request_duration_seconds_bucket{{endpoint="mark",le="{bound}"}}' in seen
    assert seen['progress_request_duration_seconds_count{endpoint="summary"}'] == 40
    assert seen['progress_statement_duration_seconds_count{statement="summary"}'] == 40
    assert seen['progress_statement_duration_seconds_count{statement="lock+may_mark"}'] == 1
    assert seen['progress_statement_duration_seconds_count{statement="limits/hit"}'] == 3
    assert 1 <= seen["progress_pool_connections"] <= 8
    assert seen["progress_pool_waiting"] == 0
    assert seen["progress_pool_timeouts_total"] == 0


@pytest.mark.parametrize("limit", ["", "10 per minute"])  # with a limit, the first connection is for the hit
def test_a_request_without_a_connection_in_time_is_counted(make_api, db, limit):
    api = make_api(METRICS="on", DATABASE_TIMEOUT="0.1", WEB_THREADS="1", RATE_LIMIT_WRITES=limit)

    def timeouts():
        answer = api.get("/metrics")
        assert not {"Cache-Control", "Vary", "ETag"} & set(answer.headers.keys())
        return float(re.findall(r"^progress_pool_timeouts_total (\S+)$", answer.text, re.M)[0])

    before = timeouts()
    with service_of(api.application).pool.connection():
        assert_problem(api.get(SUMMARY, headers=bearer()), "unavailable")
        assert_problem(mark(api, 2), "unavailable")
    assert timeouts() == before + 2


def test_there_are_no_metrics_unless_they_are_on(api):
    assert_problem(api.get("/metrics"), "not_found")


def test_a_process_that_ends_has_closed_its_connections_itself(environ):
    """At the end of Python it would be too late, as a comment in Pool says."""
    script = """
import atexit
from app.service import service_of
atexit.register(lambda: print(service_of(app).pool.closed))  # what is registered later runs sooner
from app.application import create_app
app = create_app()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
