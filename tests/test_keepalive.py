"""Connections that stay open between calls: for how long, that they use no thread, and how they end."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.bench.connections import connections_by_worker
from tests.conftest import ROOT, running_gunicorn
from tests.world import add_module, add_user, bearer, lesson_path

IDLE = 50


@pytest.mark.parametrize(("arguments", "seconds"), [(None, 75), ("--keep-alive 620", 620)])
def test_an_idle_connection_is_kept_longer_than_most_balancers_keep_it(environ, db, arguments, seconds):
    settings = environ | {"PATH": os.environ["PATH"]} | ({"GUNICORN_CMD_ARGS": arguments} if arguments else {})
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--print-config", "wsgi:app"]
    printed = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=True)
    assert re.findall(r"^keepalive +=(.*)$", printed.stdout, re.M) == [f" {seconds}"]


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_idle_connections_hold_up_neither_others_nor_the_end(environ, db, told):
    add_user(db)
    add_module(db, 1, 2)
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "2", "WEB_THREADS": "2"}) as service, ExitStack() as stack:
        address = urlsplit(service.url).netloc

        def connect() -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(address, timeout=20)
            stack.callback(connection.close)
            return connection

        def call(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, str | None]:
            connection.request(method, path, headers=bearer())
            response = connection.getresponse()
            response.read()
            return response.status, response.headers["Connection"]

        # A worker that still starts accepts no connection.
        deadline = time.monotonic() + 60
        while not all(connections_by_worker(service.process.pid, service.url).values()):
            assert time.monotonic() < deadline
            call(connect(), "GET", "/healthz")
        stack.close()

        idle = [connect() for _ in range(IDLE)]
        # All at once, as a proxy connects when its callers come.
        with ThreadPoolExecutor(IDLE) as pool:
            answers = set(pool.map(lambda connection: call(connection, "GET", "/healthz"), idle))
        assert answers == {(200, "keep-alive")}
        held = connections_by_worker(service.process.pid, service.url)
        assert sum(held.values()) == IDLE
        assert max(held.values()) <= 1.5 * IDLE / 2, held
        began = time.monotonic()
        for _ in range(20):
            assert call(connect(), "POST", lesson_path(2))[0] == 200
        assert time.monotonic() - began < 20
        workers = service.workers()
        began = time.monotonic()
        service.process.send_signal(told)
        if told == signal.SIGTERM:
            assert service.process.wait(60) == 0
        while service.process.poll() is None and service.workers() & workers:
            time.sleep(0.02)
        # A worker that stops closes idle connections after 2 seconds, and not after the 75 seconds of keep-alive.
        assert time.monotonic() - began < 30
