"""Contract §9: the delivery of events, to a real receiver over HTTP, by `make deliver` and by its parts."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC
from typing import Any

import psycopg
import pytest
from standardwebhooks import Webhook

from app.database import readiness
from app.database.readiness import NotReadyError
from app.events import deliverer as deliverer_module
from app.events.deliverer import RETRY_SECONDS, Deliverer
from app.settings import delivery_from_environ, from_environ
from tests.conftest import ROOT, Postgresql, as_service, emptying, free_port, grant, migrate
from tests.receiver import WEBHOOK_SECRET, Receiver, add, add_to, documents, table, wait_for, writing
from tests.test_cli import run
from tests.test_jwks import certificate
from tests.test_outage import Relay
from tests.world import FREE_LEARNER, LEARNER, SECRET, add_user, uuid4

LEARNERS = [uuid4(0x1000 + number) for number in range(8)]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def db(db: psycopg.Connection) -> psycopg.Connection:
    for user_id in (LEARNER, FREE_LEARNER, *LEARNERS):
        add_user(db, user_id)
    return db


@pytest.fixture
def short(monkeypatch) -> None:
    monkeypatch.setattr(deliverer_module, "SEND_SECONDS", 0.5)


def environ_of(environ: dict[str, str], url: str, **more: str) -> dict[str, str]:
    given = {"DATABASE_URL": environ["DATABASE_URL"], "WEBHOOK_URL": url, "WEBHOOK_SECRET": WEBHOOK_SECRET}
    return given | more


@contextmanager
def delivering(environ: dict[str, str], url: str, **more: str) -> Iterator[Deliverer]:
    """Run a deliverer in a thread."""
    deliverer = Deliverer(delivery_from_environ(environ_of(environ, url, **more)))
    thread = threading.Thread(target=deliverer.run)
    thread.start()
    try:
        yield deliverer
    finally:
        deliverer.stop()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def process(environ: dict[str, str], url: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `python -m app.cli deliver` as a process of its own."""
    command = [sys.executable, "-m", "app.cli", "deliver"]
    given = {"PATH": os.environ["PATH"]} | environ_of(environ, url, **more)
    with subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def due(db: psycopg.Connection) -> None:
    """Let the time pass that waiting events have to wait for their next attempt, and for which they are claimed."""
    db.execute("update events set next_attempt_at = now() where next_attempt_at is not null")


def states(db: psycopg.Connection) -> Counter[str]:
    rows = table(
        db,
        "case when delivered_at is not null then 'delivered' when given_up_at is not null then 'given up'"
        " else 'waiting' end",
    )
    return Counter(state for (state,) in rows)


def attempted(db: psycopg.Connection, *numbers: int) -> Callable[[], bool]:
    """Return a function that tells whether the events have had these numbers of attempts."""
    return lambda: table(db, "attempts") == [(number,) for number in numbers]


# What is sent


def test_an_event_arrives_within_a_second_signed_and_as_the_contract_says(db, environ, database_url, receiver):
    seconds = []
    with delivering(environ, receiver.url):
        for number in range(5):
            db.execute("delete from events")
            add(database_url, LEARNER, number)
            written = time.monotonic()
            wait_for(lambda number=number: receiver.numbers(LEARNER)[-1:] == [number])  # type: ignore[misc]
            seconds.append(time.monotonic() - written)
            wait_for(lambda: states(db)["delivered"])
    assert sorted(seconds)[2] < 1  # the others may be slow because the machine is busy
    delivery = receiver.deliveries[-1]
    ((webhook_id, created_at),) = table(db, "webhook_id, created_at")
    assert delivery.webhook_id == webhook_id
    assert len(webhook_id) == len("msg_") + 32
    assert delivery.document == {
        "type": "lesson.completed",
        "timestamp": created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "data": {"userId": LEARNER, "number": 4},
    }
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["user-agent"].startswith("progress-tracking/")
    assert abs(int(delivery.headers["webhook-timestamp"]) - time.time()) < 60
    state = "attempts, last_status, last_error, next_attempt_at, claimed_at, given_up_at"
    assert table(db, state) == [(1, 204, None, None, None, None)]


def test_every_secret_signs_so_that_a_receiver_may_have_the_old_one_or_the_new_one(db, environ, database_url, receiver):
    newer = "whsec_" + "bmV3ZXJfX3NlY3JldF9f" + "bmV3ZXJfX3NlY3JldF9f"
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url, WEBHOOK_SECRET=f"{newer},{WEBHOOK_SECRET}"):
        wait_for(lambda: states(db)["delivered"])
    (delivery,) = receiver.deliveries
    for secret in (newer, WEBHOOK_SECRET):
        assert Webhook(secret).verify(delivery.body, delivery.headers) == delivery.document


def test_a_write_that_is_rolled_back_makes_no_event(db, database_url):
    with writing(database_url, LEARNER) as connection:
        add_to(connection, LEARNER, 1, 2)
        raise psycopg.Rollback
    assert states(db) == {}


def test_the_events_of_a_learner_come_in_the_order_of_the_writes(db, environ, database_url, receiver):
    expected: dict[str, list[int]] = {user_id: [] for user_id in LEARNERS}
    with delivering(environ, receiver.url):
        for number in range(0, 40, 4):
            for user_id in LEARNERS[:4]:
                add(database_url, user_id, *range(number, number + 4))
                expected[user_id] += range(number, number + 4)
        wait_for(lambda: states(db) == {"delivered": 160})
    assert {user_id: receiver.numbers(user_id) for user_id in LEARNERS} == expected


def test_an_event_waits_for_the_one_before_it_and_other_learners_go_on(db, environ, database_url, receiver):
    receiver.answer = lambda delivery, handler: 500 if delivery.user_id == LEARNER else 204
    add(database_url, LEARNER, 1, 2)
    with delivering(environ, receiver.url):
        wait_for(lambda: table(db, "attempts") == [(1,), (0,)])
        add(database_url, LEARNER, 3)
        add(database_url, FREE_LEARNER, 1, 2, 3)
        wait_for(lambda: states(db) == {"delivered": 3, "waiting": 3})
        assert receiver.numbers(LEARNER) == [1]
        receiver.answer = lambda delivery, handler: 204
        due(db)
        wait_for(lambda: states(db) == {"delivered": 6})
    assert receiver.numbers(LEARNER) == [1, 1, 2, 3]
    assert receiver.deliveries[0].webhook_id in {delivery.webhook_id for delivery in receiver.deliveries[1:]}


# Receivers that do not answer as they should


def delay(db: psycopg.Connection) -> float:
    ((seconds,),) = table(db, "extract(epoch from next_attempt_at - last_attempt_at)::float")
    return float(seconds)


def redirect(delivery: Any, handler: Any, location: str = "https://user:word@other.example/x?secret=1") -> None:
    handler.send_response(302)
    handler.send_header("Location", location)
    handler.end_headers()


FAULTS: dict[str, tuple[Callable[[Receiver], Any], int | None, str | None]] = {
    "an error": (lambda receiver: lambda *_: 500, 500, None),
    "not found": (lambda receiver: lambda *_: 404, 404, None),
    "not modified": (lambda receiver: lambda *_: 304, 304, None),
    "a redirect": (lambda receiver: redirect, 302, "redirects to other.example, and redirects are not followed"),
    "a redirect to nonsense": (
        lambda receiver: lambda delivery, handler: redirect(delivery, handler, "https://a\x00\x1b" + "b" * 900),
        302,
        "redirects to a" + "b" * 186,
    ),
    "a redirect to no URL": (
        lambda receiver: lambda delivery, handler: redirect(delivery, handler, "https://[::1"),
        None,
        "ValueError",
    ),
    "hanging": (lambda receiver: receiver.hang, None, "no complete answer within 0.5 seconds"),
    "dripping": (lambda receiver: receiver.drip, None, "no complete answer within 0.5 seconds"),
    "not HTTP": (
        lambda receiver: lambda delivery, handler: handler.wfile.write(b"nonsense\r\n\r\n") and None,
        None,
        "the answer is not HTTP",
    ),
    "cut off": (lambda receiver: lambda *_: None, None, "the connection ended early"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_anything_but_a_2xx_in_time_is_tried_again(db, environ, database_url, receiver, monkeypatch, name, caplog):
    answer, status, error = FAULTS[name]
    if error and error.startswith("no complete answer"):
        monkeypatch.setattr(deliverer_module, "SEND_SECONDS", 0.5)
    receiver.answer = answer(receiver)
    add(database_url, LEARNER, 1)
    with caplog.at_level(logging.INFO, "progress.events"), delivering(environ, receiver.url):
        wait_for(lambda: table(db, "attempts") == [(1,)])
        assert table(db, "last_status, last_error, claimed_at, delivered_at") == [(status, error, None, None)]
        assert 4.5 <= delay(db) <= 5.5
        monkeypatch.setattr(deliverer_module, "SEND_SECONDS", 15.0)
        receiver.answer = lambda delivery, handler: 200
        due(db)
        wait_for(lambda: states(db) == {"delivered": 1})
    assert len({delivery.webhook_id for delivery in receiver.deliveries}) == 1
    fields = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert [each["outcome"] for each in fields] == ["failed", "delivered"]
    assert "secret" not in json.dumps(fields)


def test_a_receiver_that_is_not_there_or_has_a_wrong_certificate_is_tried_again(
    db, environ, database_url, tmp_path, monkeypatch
):
    add(database_url, LEARNER, 1)
    with delivering(environ, f"http://127.0.0.1:{free_port()}"):
        wait_for(lambda: table(db, "attempts, last_error") == [(1, "Connection refused")])
    file = certificate(tmp_path, "127.0.0.1")
    with Receiver(file) as receiver:
        due(db)
        with delivering(environ, receiver.url):
            wait_for(lambda: table(db, "attempts, last_error") == [(2, "TLS: self-signed certificate")])
        assert receiver.deliveries == []
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        due(db)
        with delivering(environ, receiver.url):
            wait_for(lambda: states(db) == {"delivered": 1})


def test_a_name_that_is_looked_up_late_is_tried_again_and_nothing_is_sent_when_it_is_found(
    db, environ, database_url, receiver, short, monkeypatch
):
    found, look_up = threading.Event(), socket.getaddrinfo

    def slowly(host: str, *args: Any, **more: Any) -> Any:
        if host == "localhost":
            found.wait(20)
        return look_up("127.0.0.1", *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url.replace("127.0.0.1", "localhost")):
        wait_for(lambda: table(db, "last_error") == [("no complete answer within 0.5 seconds",)])
        found.set()
        wait_for(lambda: not any("_run" in thread.name for thread in threading.enumerate()))
    assert receiver.deliveries == []


def test_a_body_of_100_megabytes_is_not_read(db, environ, database_url, receiver):
    receiver.answer = receiver.stream
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db) == {"delivered": 1})
    assert receiver.sent < 20


def test_an_answer_that_drips_but_is_whole_in_time_is_delivered(db, environ, database_url, receiver):
    def slowly(delivery: Any, handler: Any) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n":
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    receiver.answer = slowly
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db) == {"delivered": 1})
    assert table(db, "last_status") == [(200,)]


def test_a_receiver_that_hangs_for_some_learners_stops_no_others(db, environ, database_url, receiver, monkeypatch):
    """It hangs for more learners than are sent to at once, and for much longer than the others may wait."""
    monkeypatch.setattr(deliverer_module, "SLOW_SECONDS", 0.2)
    hanging = [uuid4(0x2000 + number) for number in range(2 * deliverer_module.SENDERS)]
    receiver.answer = lambda delivery, handler: receiver.hang(delivery, handler) if delivery.user_id in hanging else 204
    for user_id in hanging:
        add_user(db, user_id)
        add(database_url, user_id, 1, 2)
    for user_id in LEARNERS:
        add(database_url, user_id, *range(10))
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db)["delivered"] == 80, seconds=deliverer_module.SEND_SECONDS - 1)
        assert all(receiver.numbers(user_id) == [1] for user_id in hanging)
        receiver.over.set()


def test_no_more_than_a_number_of_events_are_sent_at_once(db, environ, database_url, receiver, monkeypatch):
    monkeypatch.setattr(deliverer_module, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(deliverer_module, "MAX_SENDERS", 5)
    receiver.answer = receiver.hang
    for user_id in LEARNERS:
        add(database_url, user_id, 1)
    with delivering(environ, receiver.url):
        wait_for(lambda: len(receiver.deliveries) == 5)
        # A second in which it could have claimed more.
        wait_for(lambda: db.execute("select min(claimed_at) < now() - interval '1 second' from events").fetchone()[0])
        assert len(receiver.deliveries) == 5
        receiver.over.set()


def test_410_gives_up_at_once_and_the_learners_next_event_goes_on(db, environ, database_url, receiver):
    receiver.answer = lambda delivery, handler: 410 if delivery.number == 1 else 204
    add(database_url, LEARNER, 1, 2)
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db) == {"given up": 1, "delivered": 1})
    assert table(db, "attempts, last_status, next_attempt_at") == [(1, 410, None), (1, 204, None)]


def test_the_times_between_attempts_grow_and_after_the_ninth_the_event_is_given_up(db, environ, database_url, receiver):
    receiver.answer = lambda delivery, handler: 503 if delivery.number == 1 else 204
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url):
        for number, seconds in enumerate((5, 60, 300, 1800, 7200, 21600, 43200, 86400), 1):
            wait_for(attempted(db, number))
            assert 0.9 * seconds <= delay(db) <= 1.1 * seconds
            due(db)
        wait_for(lambda: states(db) == {"given up": 1})
        add(database_url, LEARNER, 2)
        wait_for(lambda: states(db) == {"given up": 1, "delivered": 1})
    assert table(db, "attempts") == [(len(RETRY_SECONDS) + 1,), (1,)]


def test_a_receiver_that_was_away_for_an_hour_gets_everything_in_order(db, environ, database_url, receiver):
    port = free_port()
    for user_id in LEARNERS:
        add(database_url, user_id, 1, 2, 3)
    with delivering(environ, f"http://127.0.0.1:{port}"):
        for attempts in (1, 2, 3, 4):  # at once, then after 5 seconds, 1, 5 and 30 minutes
            wait_for(attempted(db, *[attempts, 0, 0] * 8))
            if attempts < 4:
                due(db)
    due(db)
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db) == {"delivered": 24})
    assert all(receiver.numbers(user_id) == [1, 2, 3] for user_id in LEARNERS)


# Deliverers that end, and several of them


def test_a_deliverer_that_is_killed_between_sending_and_recording_delivers_twice_with_the_same_id(
    db, environ, database_url, receiver
):
    killed = threading.Event()
    with process(environ, receiver.url) as victim:

        def kill(delivery: Any, handler: Any) -> int:
            victim.kill()
            victim.wait()
            killed.set()
            return 204

        receiver.answer = kill
        add(database_url, LEARNER, 1, 2)
        assert killed.wait(30)
    assert table(db, "claimed_at is not null, next_attempt_at between now() + interval '30 s' and now() + '1 min'") == [
        (True, True),
        (False, None),
    ]
    receiver.answer = lambda delivery, handler: 204
    with delivering(environ, receiver.url):
        # While the lease runs, nobody else takes the event. New events of the learner wait behind it.
        add(database_url, LEARNER, 3)
        add(database_url, FREE_LEARNER, 1)
        wait_for(lambda: receiver.numbers(FREE_LEARNER) == [1])
        assert receiver.numbers(LEARNER) == [1]
        due(db)
        wait_for(lambda: states(db) == {"delivered": 4})
    assert receiver.numbers(LEARNER) == [1, 1, 2, 3]
    first, second = (
        delivery for delivery in receiver.deliveries if delivery.number == 1 and delivery.user_id == LEARNER
    )
    assert (first.webhook_id, first.body) == (second.webhook_id, second.body)


def test_a_deliverer_that_is_frozen_for_longer_than_its_lease_takes_nothing_back(db, environ, database_url, receiver):
    """A machine may be paused while an attempt runs. What becomes of that attempt says nothing any more."""
    asked, go = threading.Event(), threading.Event()

    def fail_late(delivery: Any, handler: Any) -> int:
        asked.set()
        go.wait(30)
        return 410

    receiver.answer = fail_late
    add(database_url, LEARNER, 1, 2)
    with process(environ, receiver.url) as frozen:
        assert asked.wait(30)
        frozen.send_signal(signal.SIGSTOP)
        receiver.answer = lambda delivery, handler: 204 if delivery.number == 1 else 500
        due(db)
        with delivering(environ, receiver.url):
            wait_for(attempted(db, 1, 1))
        go.set()
        frozen.send_signal(signal.SIGCONT)
        # It takes the next event only after it has looked at what became of its attempt.
        receiver.answer = lambda delivery, handler: 204
        due(db)
        wait_for(lambda: states(db) == {"delivered": 2})
    assert receiver.numbers(LEARNER) == [1, 1, 2, 2]
    assert table(db, "attempts, last_status") == [(1, 204), (2, 204)]


def test_of_several_deliverers_each_event_gets_one_and_the_order_holds(db, environ, database_url, receiver):
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(process(environ, receiver.url))
        for _ in range(2):
            stack.enter_context(delivering(environ, receiver.url))
        for number in range(0, 30, 3):
            for user_id in LEARNERS:
                add(database_url, user_id, number, number + 1, number + 2)
        wait_for(lambda: states(db) == {"delivered": 240}, 60)
    assert [receiver.numbers(user_id) for user_id in LEARNERS] == [list(range(30))] * 8


def test_sigterm_lets_the_running_attempt_end_and_claims_nothing_more(db, environ, database_url, receiver):
    asked, go = threading.Event(), threading.Event()

    def hold(delivery: Any, handler: Any) -> int:
        asked.set()
        go.wait(20)
        return 204

    receiver.answer = hold
    add(database_url, LEARNER, 1, 2)
    with process(environ, receiver.url) as stopped:
        assert asked.wait(30)
        stopped.send_signal(signal.SIGTERM)
        # It still waits for the answer, and claims no event that is written now.
        with pytest.raises(subprocess.TimeoutExpired):
            stopped.wait(1)
        add(database_url, FREE_LEARNER, 1)
        go.set()
        out, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 0
    assert states(db) == {"delivered": 1, "waiting": 2}
    lines = documents(out)
    assert [line.get("message") or line["outcome"] for line in lines] == ["delivering events", "delivered", "stopped"]
    ((webhook_id, *_),) = table(db, "webhook_id")[:1]
    assert {key: value for key, value in lines[1].items() if key not in ("time", "duration_ms")} == {
        "level": "info",
        "event": webhook_id,
        "type": "lesson.completed",
        "user_id": LEARNER,
        "attempt": 1,
        "outcome": "delivered",
        "status": 204,
    }


def test_a_learner_whom_somebody_has_locked_stops_nobody_and_is_not_sent_to_twice(db, environ, database_url, receiver):
    """A transaction of the site's on its own users, for instance."""
    add(database_url, LEARNER, 1, 2)
    with ExitStack() as locked:
        # Before the deliverer starts: it may not record the first event.
        locked.enter_context(writing(database_url, LEARNER))
        with delivering(environ, receiver.url):
            wait_for(lambda: receiver.numbers(LEARNER) == [1])
            add(database_url, FREE_LEARNER, *range(5))
            wait_for(lambda: states(db) == {"delivered": 5, "waiting": 2})
            # Even if the lease runs out meanwhile.
            due(db)
            wait_for(lambda: table(db, "next_attempt_at > now() + interval '30 seconds'")[0] == (True,))
            locked.close()
            wait_for(lambda: states(db) == {"delivered": 7})
    assert receiver.numbers(LEARNER) == [1, 2]


def test_an_event_that_is_added_while_the_one_before_it_is_being_recorded_is_not_forgotten(
    db, environ, database_url, receiver
):
    """The write began before the event was delivered, and ends after it. It saw the earlier event waiting."""
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url):
        with writing(database_url, LEARNER) as connection:
            add_to(connection, LEARNER, 2)
            wait_for(lambda: receiver.numbers(LEARNER) == [1])
        wait_for(lambda: states(db) == {"delivered": 2})
    assert receiver.numbers(LEARNER) == [1, 2]


def test_the_events_of_a_learner_who_is_deleted_are_not_sent(db, environ, database_url, receiver):
    asked, go = threading.Event(), threading.Event()

    def hold(delivery: Any, handler: Any) -> int:
        asked.set()
        go.wait(20)
        return 204

    receiver.answer = hold
    add(database_url, LEARNER, 1, 2)
    with delivering(environ, receiver.url):
        assert asked.wait(20)
        db.execute("delete from users where id = %s", [LEARNER])
        go.set()
        receiver.answer = lambda delivery, handler: 204
        add(database_url, FREE_LEARNER, 1)
        wait_for(lambda: states(db) == {"delivered": 1})
    assert receiver.numbers(LEARNER) == [1]


# The database


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgresql]:
    with Postgresql() as server:
        migrate(server.url())
        grant(server.url())
        yield server


def test_while_the_database_is_away_it_waits_and_then_goes_on_by_itself(own_postgres, receiver, caplog):
    """The database ends while an event is being sent. What became of it is recorded when the database is back."""
    with closing(psycopg.connect(own_postgres.url(), autocommit=True)) as db:
        db.execute(emptying(db).encode())
        add_user(db, LEARNER)
    asked, go = threading.Event(), threading.Event()

    def hold(delivery: Any, handler: Any) -> int:
        asked.set()
        go.wait(20)
        return 204

    def messages() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "progress.events"]

    receiver.answer = hold
    add(own_postgres.url(), LEARNER, 1, 2)
    environ = {"DATABASE_URL": as_service(own_postgres.url())}
    with caplog.at_level(logging.WARNING, "progress.events"), delivering(environ, receiver.url):
        assert asked.wait(20)
        own_postgres.terminate(signal.SIGQUIT)
        go.set()
        wait_for(messages)
        own_postgres.start()
        wait_for(lambda: len(receiver.deliveries) >= 2, 60)
        with closing(psycopg.connect(own_postgres.url(), autocommit=True)) as db:
            wait_for(lambda: states(db) == {"delivered": 2})
    assert receiver.numbers(LEARNER) == [1, 2]
    lost, back = messages()
    assert lost.startswith("the database does not answer, or refuses: ")
    assert back == "the database answers again"


def test_a_removal_of_old_events_that_fails_stops_no_delivery(migrated_database, receiver, caplog):
    """It is tried again after a minute, and not at once: each failure costs the connection."""
    url = migrated_database()
    grant(url)
    with closing(psycopg.connect(url, autocommit=True)) as db:
        add_user(db, LEARNER)
        db.execute("revoke delete on events from progress_service")
        with (
            caplog.at_level(logging.WARNING, "progress.events"),
            delivering({"DATABASE_URL": as_service(url)}, receiver.url),
        ):
            wait_for(
                lambda: (
                    [record.getMessage() for record in caplog.records]
                    == [
                        "the database does not answer, or refuses: InsufficientPrivilege 42501",
                        "the database answers again",
                    ]
                )
            )
            add(url, LEARNER, *range(10))
            wait_for(lambda: states(db) == {"delivered": 10})
        assert len(caplog.records) == 2


def test_a_database_that_hangs_is_left_after_the_timeout_and_asked_again(db, environ, database_url, receiver, caplog):
    with (
        Relay(environ["DATABASE_URL"]) as relay,
        caplog.at_level(logging.WARNING, "progress.events"),
        delivering({"DATABASE_URL": relay.url}, receiver.url, DATABASE_TIMEOUT="0.5"),
    ):
        add(database_url, LEARNER, 1)
        wait_for(lambda: states(db) == {"delivered": 1})
        relay.silent = True
        wait_for(lambda: caplog.records)
        relay.silent = False
        add(database_url, LEARNER, 2)
        wait_for(lambda: states(db) == {"delivered": 2})
    assert receiver.numbers(LEARNER) == [1, 2]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "alter table events enable row level security",
            "DATABASE_URL: row level security hides rows from the role progress_service in: events",
        ),
        (
            "revoke update on events from progress_service; revoke update (claimed_at) on events from progress_service",
            "DATABASE_URL: permission denied for table events; was deploy/grants.sql run after make migrate?",
        ),
        (
            "revoke update (attempts) on events from progress_service",
            "DATABASE_URL: permission denied for table events; was deploy/grants.sql run after make migrate?",
        ),
        (
            "revoke delete on events from progress_service",
            "DATABASE_URL: permission denied for table events; was deploy/grants.sql run after make migrate?",
        ),
        ("delete from _yoyo_migration where migration_id = '0017_events'", "pending migrations: 0017_events;"),
    ],
)
def test_it_does_not_start_on_a_database_that_is_not_fit(migrated_database, statement, reason):
    url = migrated_database()
    grant(url)
    settings = delivery_from_environ(environ_of({"DATABASE_URL": as_service(url)}, "https://www.example.org"))
    readiness.check_delivery(settings)
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute(statement)
    with pytest.raises(NotReadyError) as raised:
        readiness.check_delivery(settings)
    assert str(raised.value).startswith(reason)
    code, out, err = run(as_service(url), "deliver", WEBHOOK_URL="https://h", WEBHOOK_SECRET=WEBHOOK_SECRET)
    assert (code, out) == (1, "")
    assert err == f"Error: {raised.value}\n"


def test_the_service_does_not_start_without_the_right_to_add_events_if_it_has_a_webhook(migrated_database):
    url = migrated_database()
    environ = {"DATABASE_URL": as_service(url), "AUTH_JWT_SECRET": SECRET}
    webhook = {"WEBHOOK_URL": "https://www.example.org", "WEBHOOK_SECRET": WEBHOOK_SECRET}
    readiness.check(from_environ(environ | webhook))
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("revoke insert (webhook_id) on events from progress_service")
    with pytest.raises(NotReadyError, match=r"permission denied for table events; was deploy/grants\.sql run"):
        readiness.check(from_environ(environ | webhook))
    readiness.check(from_environ(environ))


@pytest.mark.parametrize("option", ["datestyle=German", "datestyle=SQL,DMY", "timezone=America/St_Johns"])
def test_it_delivers_and_lists_whatever_way_of_writing_times_the_database_has(
    db, environ, database_url, receiver, option
):
    given = f"&options=-c%20{option.replace('=', '%3D')}"
    receiver.answer = lambda delivery, handler: 204 if delivery.number == 1 else 410
    add(database_url, LEARNER, 1, 2, 3)
    with delivering({"DATABASE_URL": environ["DATABASE_URL"] + given}, receiver.url):
        wait_for(lambda: states(db) == {"delivered": 1, "given up": 2})
    db.execute(
        "update events set created_at = '2026-10-25T00:30:00Z', given_up_at = '2026-10-25T01:30:00Z'"
        " where given_up_at is not null"
    )
    code, said, _ = run(database_url + given, "events")
    assert code == 0
    assert said.count("written 2026-10-25 00:30:00 UTC  given up 2026-10-25 01:30:00 UTC") == 2


def test_it_does_not_start_without_a_url(database_url):
    line = "Error: WEBHOOK_URL: is not set; it names the receiver, e.g. https://www.example.org/webhooks\n"
    assert run(database_url, "deliver") == (1, "", line)


# What is kept, listed and sent again


def test_what_was_delivered_over_thirty_days_ago_is_removed_a_thousand_at_a_time(db, environ, database_url, receiver):
    add(database_url, LEARNER, *range(2300))
    db.execute(
        "update events set next_attempt_at = null, delivered_at = now() - interval '30 days' - interval '1 minute'"
    )
    db.execute("update events set delivered_at = now() - interval '29 days' where (data ->> 'number')::int = 7")
    db.execute(
        "update events set delivered_at = null, given_up_at = now() - interval '90 days'"
        " where (data ->> 'number')::int = 9"
    )
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db) == {"delivered": 1, "given up": 1})
    assert receiver.deliveries == []


def test_make_events_lists_what_was_given_up_and_what_waits(db, environ, database_url, receiver):
    assert run(database_url, "events") == (0, "0 waiting, 0 given up\n", "")
    receiver.answer = lambda delivery, handler: {1: 410, 2: 500}[delivery.number]
    add(database_url, LEARNER, 1, 2, 3)
    with delivering(environ, receiver.url):
        wait_for(lambda: states(db)["given up"] and table(db, "attempts")[1] == (1,))
    db.execute("update events set last_status = null, last_error = 'Connection refused' where last_status = 500")
    db.execute("update events set created_at = '2026-01-02T03:04:05Z'")
    db.execute("update events set given_up_at = '2026-01-02T03:04:06Z' where given_up_at is not null")
    db.execute("update events set next_attempt_at = '2026-01-02T04:00:00Z' where next_attempt_at is not null")
    line = f"lesson.completed    {LEARNER}  written 2026-01-02 03:04:05 UTC"
    one, two, three = (f"{webhook_id}  {line}  " for (webhook_id,) in table(db, "webhook_id"))
    assert run(database_url, "events")[:2] == (
        0,
        "2 waiting, 1 given up\n"
        f"{one}given up 2026-01-02 03:04:06 UTC  1 failed, the last with: 410\n"
        f"{two}next attempt 2026-01-02 04:00:00 UTC  1 failed, the last with: Connection refused\n"
        f"{three}after an earlier event of the learner\n",
    )


def test_make_redeliver_sends_what_was_given_up_again_in_order_and_with_the_same_ids(
    db, environ, database_url, receiver
):
    assert run(database_url, "redeliver") == (0, "nothing to do: no event was given up\n", "")
    receiver.answer = lambda delivery, handler: 410 if delivery.number < 3 else 500
    for user_id in LEARNERS:
        add(database_url, user_id, 1, 2, 3, 4)
    with delivering(environ, receiver.url):
        wait_for(lambda: table(db, "attempts") == [(1,), (1,), (1,), (0,)] * 8)
        receiver.answer = lambda delivery, handler: 204
        assert run(database_url, "redeliver") == (0, "16 events that were given up are sent again\n", "")
        # The third one need not wait for its time any more.
        wait_for(lambda: states(db) == {"delivered": 32})
    for user_id in LEARNERS:
        assert receiver.numbers(user_id) == [1, 2, 3, 1, 2, 3, 4]
    assert set(table(db, "attempts")) == {(1,), (2,)}
    assert len({delivery.webhook_id for delivery in receiver.deliveries}) == 32


def test_make_redeliver_sends_one_event_again_whatever_became_of_it(db, environ, database_url, receiver):
    unknown = "Error: there is no event msg_1; events that were delivered over 30 days ago are removed\n"
    assert run(database_url, "redeliver", EVENT="msg_1") == (1, "", unknown)
    receiver.answer = lambda delivery, handler: 204 if delivery.number == 1 else 500
    add(database_url, LEARNER, 1, 2, 3)
    with delivering(environ, receiver.url):
        wait_for(lambda: table(db, "attempts") == [(1,), (1,), (0,)])
        ids = [webhook_id for (webhook_id,) in table(db, "webhook_id")]
        # Delivered, waiting for its next attempt, and waiting behind another.
        for number, webhook_id in enumerate(ids):
            answer = f"{webhook_id} is sent again, after the events of its learner that come before it\n"
            assert run(database_url, "redeliver", EVENT=webhook_id) == (0, answer, "")
            if number == 1:
                wait_for(lambda: receiver.numbers(LEARNER) == [1, 2, 1, 2, 2])
                wait_for(lambda: table(db, "claimed_at is null") == [(True,)] * 3)
                receiver.answer = lambda delivery, handler: 204
            elif number == 0:
                wait_for(lambda: receiver.numbers(LEARNER) == [1, 2, 1, 2])
                wait_for(lambda: table(db, "claimed_at is null") == [(True,)] * 3)
        wait_for(lambda: states(db) == {"delivered": 3})
    assert receiver.numbers(LEARNER) == [1, 2, 1, 2, 2, 2, 3]


def test_an_event_that_is_being_sent_is_not_sent_again(db, environ, database_url, receiver):
    receiver.answer = receiver.hang
    add(database_url, LEARNER, 1)
    with delivering(environ, receiver.url):
        wait_for(lambda: receiver.deliveries)
        ((webhook_id,),) = table(db, "webhook_id")
        line = f"Error: the event {webhook_id} is being sent at this moment; look again with: make events\n"
        assert run(database_url, "redeliver", EVENT=webhook_id) == (1, "", line)
        receiver.over.set()


def test_the_metrics_count_attempts_and_say_what_waits(db, environ, database_url, receiver):
    port = free_port()
    receiver.answer = lambda delivery, handler: {1: 204, 2: 410, 3: 500}[delivery.number]
    add(database_url, LEARNER, 1, 2, 3)
    add(database_url, FREE_LEARNER, 4)
    add(database_url, LEARNERS[0], 5)
    db.execute(
        "update events set created_at = now() - interval '1 hour', next_attempt_at = now() + interval '1 hour'"
        " where (data ->> 'number')::int = 4"
    )
    db.execute("update events set next_attempt_at = null, given_up_at = now() where (data ->> 'number')::int = 5")

    def metrics() -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                lines = response.read().decode().splitlines()
        except OSError:
            return {}
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    with process(environ, receiver.url, WEBHOOK_METRICS_PORT=str(port)):
        wait_for(lambda: metrics().get('progress_event_attempts_total{outcome="failed"}') == 1, 60)
        found = metrics()
        assert found['progress_event_attempts_total{outcome="delivered"}'] == 1
        assert found['progress_event_attempts_total{outcome="given_up"}'] == 1
        # These are counted when the deliverer starts, and then every 15 seconds.
        assert (found["progress_events_waiting"], found["progress_events_given_up"]) == (4, 1)
        assert 3600 <= found["progress_events_oldest_seconds"] < 3700
        variables = {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": WEBHOOK_SECRET, "WEBHOOK_METRICS_PORT": str(port)}
        line = "Error: WEBHOOK_METRICS_PORT: cannot listen: Address already in use\n"
        assert run(environ["DATABASE_URL"], "deliver", **variables) == (1, "", line)
