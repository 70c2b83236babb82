"""Clients that write and read until a test stops them, and the answers that they got."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg

from tests.world import add_user, bearer, uuid4

CLIENTS = 6
LESSONS = 1500
PAUSE_SECONDS = 0.004
REFUSED_PAUSE_SECONDS = 0.01


class Answer(NamedTuple):
    """The result of a call. If the connection ended before the answer, the status is None and `error` says why."""

    method: str
    learner: str
    lesson: str
    status: int | None
    document: Any
    retry_after: str | None
    ended: float
    seconds: float
    error: Exception | None


def fill(db: psycopg.Connection) -> None:
    """Add a learner for each client, and the lessons that they mark."""
    for client in range(CLIENTS):
        add_user(db, uuid4(0xC0 + client))
    db.execute("insert into modules (id, title, position) values (%s, 'All', 1)", [uuid4(1)])
    db.execute(
        "insert into lessons (id, module_id, title, position, published) select unnest(%s::uuid[]), %s, 'One', 1, true",
        [[uuid4(0x1000 + number) for number in range(LESSONS)], uuid4(1)],
    )


class Load:
    """Clients, each in a thread. With `keep_alive`, a client uses one connection until the service closes it.

    For one lesson after the other, a client makes all of `calls`: POST marks it, DELETE unmarks it, and GET reads the
    summary.
    """

    def __init__(self, url: str, keep_alive: bool = False, calls: tuple[str, ...] = ("POST", "GET")) -> None:
        self.address = urlsplit(url).netloc
        self.keep_alive = keep_alive
        self.calls = calls
        self.answers: list[Answer] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._client, args=(uuid4(0xC0 + n),)) for n in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, fact: Callable[[list[Answer]], bool], seconds: float = 60) -> None:
        """Wait until `fact` is true for the list of the answers that come from now on."""
        first = len(self.answers)
        deadline = time.monotonic() + seconds
        while not fact(self.answers[first:]):
            assert time.monotonic() < deadline, self.answers[-5:]
            time.sleep(0.01)

    def wait_for_more(self, amount: int = 100) -> None:
        self.wait_for(lambda answers: sum(answer.status == 200 for answer in answers) >= amount)

    def marked(self) -> set[tuple[str, str]]:
        """Return the learner and the lesson of each mark that was answered with 200."""
        return {(a.learner, a.lesson) for a in self.answers if a.method == "POST" and a.status == 200}

    def _client(self, learner: str) -> None:
        headers = bearer(learner)
        connection = None
        number = 0
        while not self.over.is_set():
            method = self.calls[number % len(self.calls)]
            lesson = uuid4(0x1000 + number // len(self.calls) % LESSONS)
            path = "/api/progress/summary" if method == "GET" else f"/api/progress/lessons/{lesson}"
            number += 1
            started = time.monotonic()
            status, document, retry_after, failure = None, None, None, None
            try:
                connection = connection or http.client.HTTPConnection(self.address, timeout=30)
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
                document = json.loads(response.read())
                status, retry_after = response.status, response.headers["Retry-After"]
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = error
            if connection and (failure or not self.keep_alive):
                connection.close()
                connection = None
            now = time.monotonic()
            self.answers.append(
                Answer(method, learner, lesson, status, document, retry_after, now, now - started, failure)
            )
            # At any moment, some of the clients still have a call running. Without a pause, the clients would use all
            # of the machine while a test waits for something else, above all if their connections are refused.
            self.over.wait(PAUSE_SECONDS if status == 200 else REFUSED_PAUSE_SECONDS)
        if connection:
            connection.close()


def in_table(db: psycopg.Connection) -> set[tuple[str, str]]:
    return set(db.execute("select user_id::text, lesson_id::text from progress").fetchall())
