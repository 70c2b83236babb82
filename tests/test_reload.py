"""Starts, reloads and stops of a real gunicorn, while the check before a start or a reload hangs or refuses."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from app import start
from tests.conftest import Gunicorn, free_port, running_gunicorn
from tests.test_demo import copy_of_the_checkout

GUNICORN = ("gunicorn", "-c", "gunicorn.conf.py", "wsgi:app")
# The limit of the check in these tests: long enough for a busy machine, and much less than the tests wait.
CHECK_SECONDS = 3


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout in which the check has a shorter limit than the real one."""
    folder = copy_of_the_checkout(tmp_path / "checkout")
    file = folder / "app" / "start.py"
    code, found = re.subn(r"^CHECK_SECONDS = 10$", f"CHECK_SECONDS = {CHECK_SECONDS}", file.read_text(), flags=re.M)
    assert found == 1
    file.write_text(code)
    return folder


def test_the_check_has_ten_seconds():
    assert start.CHECK_SECONDS == 10


@contextmanager
def hanging_database(greets: bool) -> Iterator[str]:
    """Yield the URL of a server that accepts connections and answers no query.

    With `greets`, clients can log in, as with a PgBouncer whose own connections are all in use.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as connections:

        def greet() -> None:
            while True:
                try:
                    client = connections.enter_context(listener.accept()[0])
                except OSError:  # the listener is closed
                    return
                try:
                    # A client may ask for TLS or GSS encryption first, in a message of 8 bytes. The answer N means no.
                    # Then the client sends its startup message.
                    while struct.unpack("!i", client.recv(4))[0] == 8:
                        client.recv(4)
                        client.sendall(b"N")
                    client.recv(10000)
                    # AuthenticationOk, ReadyForQuery
                    client.sendall(b"R" + struct.pack("!ii", 8, 0) + b"Z" + struct.pack("!i", 5) + b"I")
                except (OSError, struct.error):
                    continue

        thread = threading.Thread(target=greet)
        if greets:
            thread.start()
        yield f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/d"
        listener.shutdown(socket.SHUT_RDWR)
        if greets:
            thread.join()


@pytest.mark.parametrize("program", [("app.start",), GUNICORN], ids=["app.start", "gunicorn"])
@pytest.mark.parametrize("greets", [False, True])
def test_a_start_on_a_database_that_never_answers_is_refused_in_one_line(checkout, environ, program, greets):
    with hanging_database(greets) as url:
        settings = environ | {"DATABASE_URL": url, "DATABASE_TIMEOUT": "120", "PORT": str(free_port())}
        command = [sys.executable, "-m", *program]
        began = time.monotonic()
        ended = subprocess.run(command, cwd=checkout, env=settings, capture_output=True, text=True, timeout=60)
        assert time.monotonic() - began < CHECK_SECONDS + 20
    assert ended.returncode not in (0, None)
    assert (ended.stdout, ended.stderr.count("\n")) == ("", 1)
    # The timeout of the connection has ended the check, or the limit of the check has.
    assert ended.stderr.startswith(
        ("DATABASE_URL: no connection: ", f"DATABASE_URL: no answer within {CHECK_SECONDS} s")
    )


class Service:
    """A running gunicorn, and its output on standard error."""

    def __init__(self, gunicorn: Gunicorn, capfd: pytest.CaptureFixture[str]) -> None:
        self.gunicorn = gunicorn
        self.process = gunicorn.process
        self.capfd = capfd
        self.said = ""

    def wait_for(self, fact: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def wait_until_it_says(self, text: str) -> None:
        def says() -> bool:
            self.said += self.capfd.readouterr().err
            return text in self.said

        self.wait_for(says)


@pytest.fixture
def serve(checkout: Path, environ: dict[str, str], db: psycopg.Connection, capfd: pytest.CaptureFixture[str]):
    """Yield a function that starts the service.

    A test calls it, and not this fixture: pytest captures the standard error of fixtures and tests separately.
    """
    # With a long DATABASE_TIMEOUT, no timeout of a connection ends the check before its limit.
    settings = environ | {"WEB_CONCURRENCY": "1", "DATABASE_TIMEOUT": "60"}
    with ExitStack() as stack:
        yield lambda: Service(stack.enter_context(running_gunicorn(settings, checkout)), capfd)


@contextmanager
def no_check_ends(database_url: str) -> Iterator[None]:
    """Hold a lock for which every check waits, while the block runs."""
    with closing(psycopg.connect(database_url)) as connection:
        connection.execute("lock table _yoyo_migration in access exclusive mode")
        yield


def is_checking(db: psycopg.Connection) -> bool:
    """Return whether a check waits for the database."""
    return db.execute("select from pg_locks where not granted").rowcount > 0


def test_a_reload_whose_check_never_ends_is_refused_and_the_next_one_is_done(serve, database_url):
    service = serve()
    workers = service.gunicorn.workers()
    with no_check_ends(database_url):
        service.process.send_signal(signal.SIGHUP)
        service.wait_until_it_says("not reloaded: the workers go on as before")
    assert service.said == (
        f"DATABASE_URL: no answer within {CHECK_SECONDS} seconds; the database, a pooler or the name service hangs,"
        " or somebody holds a lock\nnot reloaded: the workers go on as before\n"
    )
    assert service.gunicorn.workers() == workers
    reload(service)


def reload(service: Service) -> None:
    """Reload, and wait until every worker is a new one."""
    workers = service.gunicorn.workers()
    service.process.send_signal(signal.SIGHUP)
    service.wait_for(
        lambda: len(service.gunicorn.workers()) == len(workers) and not service.gunicorn.workers() & workers
    )


def test_the_master_replaces_a_worker_while_a_reload_is_being_checked(serve, db, database_url):
    service = serve()
    (worker,) = service.gunicorn.workers()
    with no_check_ends(database_url):
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda: is_checking(db))
        children = service.gunicorn.workers()  # the process of the check is among them
        os.kill(worker, signal.SIGKILL)
        service.wait_for(lambda: bool(service.gunicorn.workers() - children))
        assert is_checking(db)


def test_a_stop_while_a_reload_is_being_checked_waits_for_no_check(serve, db, database_url):
    service = serve()
    with no_check_ends(database_url):
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda: is_checking(db))
        service.process.terminate()
        assert service.process.wait(20) == 0
        assert is_checking(db)


@pytest.mark.parametrize("fault", ["migrations/0099_next.sql", "app/start.py"], ids=["refused", "not run"])
def test_a_reload_that_is_refused_leaves_the_master_free(serve, checkout, fault):
    service = serve()
    workers = service.gunicorn.workers()
    file = checkout / fault
    before = file.read_text() if file.exists() else None
    file.write_text("nonsense\n")
    service.process.send_signal(signal.SIGHUP)
    service.wait_until_it_says("not reloaded")
    assert service.gunicorn.workers() == workers
    if before is None:
        file.unlink()
    else:
        file.write_text(before)
    reload(service)
    began = time.monotonic()
    service.process.terminate()
    assert service.process.wait(60) == 0
    assert time.monotonic() - began < 20  # without a running request, a stop does not last the graceful_timeout (30 s)
