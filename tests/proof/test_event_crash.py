"""Gunicorn, deliverers and PostgreSQL are killed at any moment, while the receiver of the events fails at random.

No answered write is lost. Each write that is in the tables has its events, in the order of the writes, and nothing else
is an event. Each event arrives, and the events of a learner arrive in their order.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest

from app.demo import postgres
from tests.conftest import DEEP, ROOT, Gunicorn, as_service, free_port, grant, migrate, running_gunicorn
from tests.proof.histories import Call, written
from tests.proof.model import Catalog, Course, Learner, Lesson, Module, Subscription, timestamp
from tests.proof.test_crash import Cluster, kill_gunicorn
from tests.receiver import WEBHOOK_SECRET, Delivery, Receiver, wait_for
from tests.test_migrations import connected
from tests.world import SECRET, add_course, add_module, add_user, bearer, uuid4

ROUNDS = 100 if DEEP else 3
DELIVERERS = 2
# A round begins with no more waiting events than these. Otherwise the deliveries would end long after the last round.
MAX_WAITING = 100
PAUSE_SECONDS = 0.02  # of a client, after a write that was answered
REFUSED_PAUSE_SECONDS = 0.1  # after any other
# Small modules and courses, which are completed often. Module 3 is in no course.
MODULES = {uuid4(1): (0x11, 0x12), uuid4(2): (0x21, 0x22, 0x23), uuid4(3): (0x31,), uuid4(4): (0x41, 0x42)}
COURSES = {uuid4(0xC1): (1, 2), uuid4(0xC2): (4,)}
LESSONS = [uuid4(lesson) for lessons in MODULES.values() for lesson in lessons]
LEARNERS = [uuid4(0xA0 + number) for number in range(6)]

Event = dict[str, Any]  # `type` and `data`
Finished = dict[tuple[str, str], dict[datetime, bool]]


class Stored(NamedTuple):
    """What the tables say of a learner."""

    completed: dict[str, datetime]
    finished: Finished  # as Learner.finished
    events: list[Event]  # those of the round


class Writes(NamedTuple):
    """The writes of a client, which makes one after the other."""

    answered: list[tuple[Call, dict[str, Any]]]
    # Each of these got no answer, or 503. It may have happened at any time since it was sent, or not at all. The number
    # says how many writes were answered before it was sent.
    unanswered: list[tuple[int, Call]]


# The check


def new_learner() -> Learner:
    catalog = Catalog(
        modules={
            module: Module("", number, next((course for course, of in COURSES.items() if number in of), None))
            for number, module in enumerate(MODULES, 1)
        },
        lessons={
            uuid4(lesson): Lesson(module, "", lesson, True, False)
            for module, lessons in MODULES.items()
            for lesson in lessons
        },
        courses={course: Course("", number) for number, course in enumerate(COURSES)},
    )
    return Learner(catalog, Subscription("active", datetime.now(UTC) + timedelta(days=365)))


def events_of(user_id: str, before: Learner, after: Learner, answer: dict[str, Any]) -> tuple[list[Event], list[Event]]:
    """Return the events that a write owes: of its lessons, whose order nobody promises, and of its completions."""

    def event(type_: str, about: dict[str, str], module: str | None, course: str | None) -> Event:
        data = {"userId": user_id, **about, "overall": after.summary()}
        if module:
            data["module"] = {"moduleId": module, **after.counts(after.accessible(module))}
        if course:
            data["course"] = {"courseId": course, **after.counts(after.accessible(course=course))}
        return {"type": type_, "data": data}

    lessons = []
    for lesson in before.completed.keys() ^ after.completed.keys():
        type_, times = ("completed", after) if lesson in after.completed else ("uncompleted", before)
        about = {"lessonId": lesson, "completedAt": timestamp(times.completed[lesson])}
        module = after.catalog.lessons[lesson].module_id
        lessons.append(event(f"lesson.{type_}", about, module, after.catalog.course_of(lesson)))
    completions = [
        event("module.completed", made, made["moduleId"], after.catalog.modules[made["moduleId"]].course_id)
        if "moduleId" in made
        else event("course.completed", made, None, made["courseId"])
        for made in answer.get("completions", [])
    ]
    return lessons, completions


def explained(user_id: str, before: Learner, writes: Writes, stored: Stored) -> Learner | None:
    """Find an order of writes that explains every answer, every event and every row. Return the learner after it.

    The answered writes come in their order. Each of the others comes at any place since it was sent, or nowhere.
    Return None if there is no such order.
    """
    found = stored.events
    tried = set()

    def taken(learner: Learner, after: Learner, answer: dict[str, Any], place: int) -> int | None:
        """Return the place after the events of a write, if these are the events at this place."""
        lessons, completions = events_of(user_id, learner, after, answer)
        middle = place + len(lessons)
        end = middle + len(completions)
        same = sorted(found[place:middle], key=str) == sorted(lessons, key=str) and found[middle:end] == completions
        return end if same else None

    def search(learner: Learner, number: int, place: int, used: frozenset[int]) -> Learner | None:
        finished = {of: times for of, times in learner.finished.items() if times}
        is_end = number == len(writes.answered) and place == len(found)
        if is_end and (learner.completed, finished) == (stored.completed, stored.finished):
            return learner
        state = number, place, used, str(sorted(finished.items()))
        if state in tried:
            return None
        tried.add(state)
        if number < len(writes.answered):
            call, answer = writes.answered[number]
            shown = {result["lessonId"]: result["completedAt"] for result in answer.get("results", [])}
            after, expected = written(learner, call, lambda lesson: shown.get(lesson) or answer.get("completedAt"))
            end = taken(learner, after, expected, place) if expected == answer else None
            if end is not None and (rest := search(after, number + 1, end, used)):
                return rest
        asked = set()
        for index, (sent, call) in enumerate(writes.unanswered):
            if index in used or sent > number or call in asked or place == len(found):
                continue
            asked.add(call)  # equal calls do the same
            # A write without events changed nothing, so it is left out. The first event says which time the service
            # chose.
            at = found[place]["data"]["completedAt"]
            after, expected = written(learner, call, lambda lesson: at)  # noqa: B023 - it is called at once
            end = taken(learner, after, expected, place)
            if end is not None and end > place and (rest := search(after, number, end, used | {index})):
                return rest
        return None

    return search(before, 0, 0, frozenset())


def assert_arrived(written_events: list[tuple[str, str, Event]], deliveries: list[Delivery]) -> None:
    """Assert that the receiver has every event, as it was written, in the order of each learner, and nothing else.

    `written_events` are the webhook id, the time of the write, and the event. An event may arrive again, unchanged.
    """
    bodies = {webhook_id: {**event, "timestamp": at} for webhook_id, at, event in written_events}
    arrived: dict[str, None] = {}
    for delivery in deliveries:
        assert delivery.document == bodies.get(delivery.webhook_id), (delivery, bodies.get(delivery.webhook_id))
        arrived.setdefault(delivery.webhook_id)
    by_learner: list[dict[str, list[str]]] = [{}, {}]
    for order, ids in zip(by_learner, ([*bodies], [*arrived]), strict=True):
        for webhook_id in ids:
            order.setdefault(bodies[webhook_id]["data"]["userId"], []).append(webhook_id)
    assert by_learner[0] == by_learner[1]


# The check itself

A, B = uuid4(0x41), uuid4(0x42)  # the lessons of module 4, which is the only module of course 2
MODULE, COURSE = uuid4(4), uuid4(0xC2)
JANUARY, MAY = "2026-01-01T00:00:00.000Z", "2026-05-01T00:00:00.000Z"
MARK_A, UNMARK_A = Call("", "POST", f"lessons/{A}", JANUARY), Call("", "DELETE", f"lessons/{A}")
MARK_BOTH = Call("", "POST", "lessons", MAY, (A, B))
START_OVER = Call("", "DELETE", f"modules/{MODULE}")


def after_writes(*calls: Call) -> tuple[Writes, Stored]:
    """Return writes with their answers, and what is stored after them."""
    learner, writes = new_learner(), Writes([], [])
    events: list[Event] = []
    for call in calls:
        before = learner
        learner, answer = written(before, call, lambda lesson: None)
        writes.answered.append((call, answer))
        lessons, completions = events_of("", before, learner, answer)
        events += sorted(lessons, key=str) + completions
    return writes, Stored(learner.completed, {of: times for of, times in learner.finished.items() if times}, events)


def is_explained(writes: Writes, stored: Stored) -> bool:
    return explained("", new_learner(), writes, stored) is not None


def test_the_check_explains_what_was_answered():
    writes, stored = after_writes(MARK_A, MARK_BOTH, MARK_A, UNMARK_A, START_OVER, MARK_A)
    assert [event["type"] for event in stored.events] == [
        *("lesson.completed", "lesson.completed", "module.completed", "course.completed"),
        *("lesson.uncompleted", "lesson.uncompleted", "lesson.completed"),
    ]
    assert is_explained(writes, stored)


@pytest.mark.parametrize("call", [MARK_A, MARK_BOTH, UNMARK_A, START_OVER])
@pytest.mark.parametrize("happened", [True, False])
def test_a_write_without_an_answer_has_happened_or_not(call, happened):
    calls = [MARK_BOTH, START_OVER, MARK_A]
    writes, stored = after_writes(*calls, *[call] * happened)
    assert is_explained(Writes(writes.answered[:3], [(3, call), (3, call)]), stored)


def test_a_write_without_an_answer_happens_at_any_time_since_it_was_sent():
    writes, stored = after_writes(MARK_A, UNMARK_A, MARK_BOTH)
    answered = [writes.answered[0], writes.answered[2]]
    assert is_explained(Writes(answered, [(0, UNMARK_A)]), stored)
    assert is_explained(Writes(answered, [(1, UNMARK_A)]), stored)
    assert not is_explained(Writes(answered, [(2, UNMARK_A)]), stored)


def changed_event(stored: Stored, number: int, **data: Any) -> Stored:
    events = list(stored.events)
    events[number] = {**events[number], "data": events[number]["data"] | data}
    return stored._replace(events=events)


WRONG = {
    "a row is missing": lambda stored: stored._replace(completed={A: stored.completed[A]}),
    "a row is too many": lambda stored: stored._replace(completed=stored.completed | {uuid4(0x31): datetime.now(UTC)}),
    "a completion is missing": lambda stored: stored._replace(finished={}),
    "a completion is closed": lambda stored: stored._replace(
        finished={of: dict.fromkeys(times, False) for of, times in stored.finished.items()}
    ),
    "the first event is missing": lambda stored: stored._replace(events=stored.events[1:]),
    "the last event is missing": lambda stored: stored._replace(events=stored.events[:-1]),
    "an event is there twice": lambda stored: stored._replace(events=[*stored.events, stored.events[-1]]),
    "the completions come first": lambda stored: stored._replace(
        events=[stored.events[0], *stored.events[2:], stored.events[1]]
    ),
    "another learner's event": lambda stored: changed_event(stored, 0, userId=uuid4(1)),
    "a wrong count": lambda stored: changed_event(stored, 0, overall={}),
    "a wrong time": lambda stored: changed_event(stored, -1, completedAt=JANUARY),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_check_sees_what_is_wrong_in_the_tables(wrong):
    writes, stored = after_writes(MARK_A, MARK_BOTH)
    assert is_explained(writes, stored)
    assert not is_explained(writes, wrong(stored))


def test_the_check_sees_a_wrong_answer():
    writes, stored = after_writes(MARK_A, MARK_BOTH)
    call, answer = writes.answered[1]
    assert not is_explained(Writes([writes.answered[0], (call, answer | {"completions": []})], []), stored)


def delivery(webhook_id: str, user_id: str, at: str = MAY) -> Delivery:
    document = {"type": "lesson.completed", "timestamp": at, "data": {"userId": user_id}}
    return Delivery(webhook_id, {}, json.dumps(document).encode(), document)


SENT = [("1", "x"), ("2", "x"), ("3", "y"), ("4", "x")]
ARRIVALS: dict[str, tuple[bool, list[Delivery]]] = {
    "in order": (True, [delivery(*each) for each in SENT]),
    "again": (True, [delivery(*SENT[number]) for number in (0, 0, 1, 0, 2, 3, 1)]),
    "another order of two learners": (True, [delivery(*SENT[number]) for number in (2, 0, 1, 3)]),
    "one is missing": (False, [delivery(*each) for each in SENT[:3]]),
    "one is too many": (False, [delivery(*each) for each in [*SENT, ("5", "x")]]),
    "another order of one learner": (False, [delivery(*SENT[number]) for number in (0, 3, 1, 2)]),
    "changed": (False, [*(delivery(*each) for each in SENT), delivery("1", "x", at=JANUARY)]),
}


@pytest.mark.parametrize(("right", "deliveries"), ARRIVALS.values(), ids=ARRIVALS)
def test_the_check_sees_what_is_wrong_at_the_receiver(right, deliveries):
    sent = [(id, MAY, {"type": "lesson.completed", "data": {"userId": user_id}}) for id, user_id in SENT]
    if right:
        assert_arrived(sent, deliveries)
    else:
        with pytest.raises(AssertionError):
            assert_arrived(sent, deliveries)


# The proof


class Service:
    """Everything that is killed: PostgreSQL, gunicorn and the deliverers."""

    def __init__(self, cluster: Cluster, environ: dict[str, str], stack: ExitStack) -> None:
        self.cluster = cluster
        self.environ = environ
        self.stack = stack
        self.gunicorn: Gunicorn
        self.deliverers: list[subprocess.Popen[str]] = []

    def kill(self, name: str) -> None:
        if name == "postgresql":
            self.cluster.kill(whole=random.random() < 0.5)
        elif name == "gunicorn":
            kill_gunicorn(self.gunicorn)
        else:
            for process in random.sample(self.deliverers, random.randint(1, DELIVERERS)):
                process.kill()
                process.wait()

    def start(self, name: str) -> None:
        if name == "postgresql":
            self.cluster.start()
        elif name == "gunicorn":
            self.gunicorn = self.stack.enter_context(running_gunicorn(self.environ))
        else:
            self.deliverers = [process for process in self.deliverers if process.poll() is None]
            while len(self.deliverers) < DELIVERERS:
                command = [sys.executable, "-m", "app.cli", "deliver"]
                started = subprocess.Popen(command, cwd=ROOT, env=self.environ, stdout=subprocess.DEVNULL, text=True)
                process = self.stack.enter_context(started)
                self.stack.callback(process.kill)
                self.deliverers.append(process)


class Clients:
    """A client for each learner, each in a thread. They write until the block ends."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc
        self.writes = {user_id: Writes([], []) for user_id in LEARNERS}
        self.refused: list[Any] = []  # answers that no write may get here
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._client, args=(user_id,)) for user_id in LEARNERS]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def answered(self) -> int:
        return sum(len(writes.answered) for writes in self.writes.values())

    def _client(self, user_id: str) -> None:
        headers = bearer(user_id) | {"Content-Type": "application/json"}
        answered, unanswered = self.writes[user_id]
        pause = PAUSE_SECONDS
        while not self.over.wait(pause):
            pause = REFUSED_PAUSE_SECONDS
            call = any_write(user_id)
            at = {"completedAt": call.completed_at} if call.completed_at else {}
            many = {"lessons": [{"lessonId": lesson} | at for lesson in call.lessons]}
            body = json.dumps(many if call.lessons else at)
            connection = http.client.HTTPConnection(self.address, timeout=30)
            try:
                connection.connect()
            except OSError:
                continue  # gunicorn is away, so nothing was sent
            try:
                connection.request(call.method, f"/api/progress/{call.path}", body, headers)
                response = connection.getresponse()
                document = json.loads(response.read())
                if response.status == 200:
                    answered.append((call, document))
                    pause = PAUSE_SECONDS
                    continue
                if response.status != 503:
                    self.refused.append((call, document))
            except (OSError, http.client.HTTPException, ValueError):
                pass
            finally:
                connection.close()
            unanswered.append((len(answered), call))


def any_write(user_id: str) -> Call:
    at = random.choice([None, None, JANUARY])  # at one time, a module that was started over is not completed again
    match random.choices(["mark", "many", "unmark", "over"], [6, 2, 2, 1])[0]:
        case "mark":
            return Call(user_id, "POST", f"lessons/{random.choice(LESSONS)}", at)
        case "many":
            return Call(user_id, "POST", "lessons", at, tuple(random.sample(LESSONS, random.randint(1, 5))))
        case "unmark":
            return Call(user_id, "DELETE", f"lessons/{random.choice(LESSONS)}")
        case _:
            paths = ["lessons?all=true", *(f"modules/{id}" for id in MODULES), *(f"courses/{id}" for id in COURSES)]
            return Call(user_id, "DELETE", random.choice(paths))


class FailingReceiver:
    """Answers of a receiver that fails at random, but never so often that an event is given up."""

    def __init__(self) -> None:
        self.accepted: list[Delivery] = []
        self.failures: Counter[str] = Counter()

    def __call__(self, delivery: Delivery, handler: BaseHTTPRequestHandler) -> int | None:
        fails = random.random() < 0.3 and self.failures[delivery.webhook_id] < 5
        self.failures[delivery.webhook_id] += fails
        accepts = not fails or random.random() < 0.3  # an answer may get lost after the work was done
        if accepts:
            self.accepted.append(delivery)
        if not fails:
            return 204
        return random.choice([None, 500, 302, 404]) if not accepts else None


def stored(db: psycopg.Connection, user_id: str, after_id: int) -> Stored:
    def rows(query: str, *values: Any) -> list[Any]:
        return db.execute(query.encode(), [user_id, *values]).fetchall()

    completed = dict(rows("select lesson_id::text, completed_at from progress where user_id = %s"))
    finished: Finished = {}
    for kind in ("module", "course"):
        query = f"select {kind}_id::text, completed_at, started_over_at is null from {kind}_completions"
        for id, at, is_open in rows(f"{query} where user_id = %s"):
            finished.setdefault((kind, id), {})[at] = is_open
    events = rows("select type, data from events where user_id = %s and id > %s order by id", after_id)
    return Stored(completed, finished, [{"type": type_, "data": data} for type_, data in events])


def wait_until_idle(db: psycopg.Connection) -> None:
    """Wait until no backend of PostgreSQL works. One may still work for a gunicorn that was killed."""
    busy = "select from pg_stat_activity where application_name = 'progress-tracking' and state <> 'idle'"
    wait_for(lambda: not db.execute(busy).rowcount)


def pass_time(db: psycopg.Connection, leases: bool) -> None:
    """Let the time pass that events wait for their next attempt and, with `leases`, for which they are claimed."""
    claimed = "" if leases else "and claimed_at is null"
    db.execute(f"update events set next_attempt_at = now() where next_attempt_at > now() {claimed}".encode())


def waiting(db: psycopg.Connection) -> int:
    return db.execute("select from events where delivered_at is null").rowcount


def deliver_until(fact: Callable[[], bool], db: psycopg.Connection, service: Service) -> None:
    """Wait for a fact. Meanwhile let the retries be due, and start deliverers that have ended, as systemd does.

    A deliverer ends if PostgreSQL is killed during its start.
    """

    def once() -> bool:
        service.start("deliverers")
        pass_time(db, leases=False)
        return fact()

    wait_for(once, 120)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster")
    migrate(cluster.url)
    grant(cluster.url)
    with connected(cluster.url) as db:
        for user_id in LEARNERS:
            add_user(db, user_id)
        for number, lessons in enumerate(MODULES.values(), 1):
            add_module(db, number, *lessons)
        for number, modules in zip((0xC1, 0xC2), COURSES.values(), strict=True):
            add_course(db, number, *modules)
    yield cluster
    postgres.stop(cluster.process, cluster.folder)


KILLED = [names for size in (3, 2, 1) for names in combinations(("postgresql", "gunicorn", "deliverers"), size)]


def test_every_answered_write_and_its_events_survive_the_death_of_everything(cluster):
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": as_service(cluster.url), "AUTH_JWT_SECRET": SECRET}
    environ |= {"RATE_LIMIT_WRITES": "", "WEB_CONCURRENCY": "2", "PORT": str(free_port())}
    learners = {user_id: new_learner() for user_id in LEARNERS}
    failing = FailingReceiver()
    last_id = 0
    with Receiver() as receiver, ExitStack() as stack:
        receiver.answer = failing
        environ |= {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": WEBHOOK_SECRET}
        service = Service(cluster, environ, stack)
        service.start("gunicorn")
        service.start("deliverers")
        for number in range(ROUNDS):
            killed = random.sample(KILLED[number % len(KILLED)], len(KILLED[number % len(KILLED)]))
            with connected(cluster.url) as db:
                deliver_until(lambda: waiting(db) <= MAX_WAITING, db, service)
            with Clients(service.gunicorn.url) as clients:
                with connected(cluster.url) as db:
                    answers = random.randint(1, 60)
                    arrivals = len(failing.accepted) + random.randint(1, 30)
                    wait_for(lambda: clients.answered() >= answers, 60)  # noqa: B023
                    deliver_until(lambda: len(failing.accepted) >= arrivals, db, service)  # noqa: B023
                time.sleep(random.uniform(0, 0.02))  # otherwise the kill would always come right after an answer
                for name in killed:
                    service.kill(name)
                # Gunicorn and the deliverers do not start without PostgreSQL.
                for name in sorted(killed, reverse=True):
                    service.start(name)
                answers = clients.answered() + 10
                wait_for(lambda: clients.answered() >= answers, 60)  # noqa: B023
            assert clients.refused == []
            with connected(cluster.url) as db:
                wait_until_idle(db)
                for user_id, writes in clients.writes.items():
                    found = stored(db, user_id, last_id)
                    after = explained(user_id, learners[user_id], writes, found)
                    assert after, (number, killed, learners[user_id].completed, writes, found)
                    learners[user_id] = after
                ((last_id,),) = db.execute("select coalesce(max(id), 0) from events").fetchall()
                pass_time(db, leases=True)
        with connected(cluster.url) as db:
            deliver_until(lambda: waiting(db) == 0, db, service)
            at = """to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
            rows = db.execute(f"select webhook_id, {at}, type, data from events order by id".encode()).fetchall()
        for process in service.deliverers:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert_arrived([(id, at, {"type": type_, "data": data}) for id, at, type_, data in rows], failing.accepted)
    assert {type_ for _, _, type_, _ in rows} >= {"lesson.completed", "lesson.uncompleted", "module.completed"}
