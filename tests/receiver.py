"""A receiver of events: a real HTTP server that verifies each signature, and does wrong what a test wants it to do."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from standardwebhooks import Webhook

from app.database import statements
from app.events import outbox

WEBHOOK_SECRET = "whsec_" + "c2VjcmV0" * 4
MEBIBYTE = 2**20


class Delivery(NamedTuple):
    """One request that a receiver got."""

    webhook_id: str
    headers: dict[str, str]
    body: bytes
    document: dict[str, Any]

    @property
    def user_id(self) -> str:
        return str(self.document["data"]["userId"])

    @property
    def number(self) -> int:
        """What `add` wrote into the event."""
        return int(self.document["data"]["number"])


class Receiver:
    """The server. `answer` gets each delivery and its handler, and returns a status, or None if it answered itself."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self.answer: Callable[[Delivery, BaseHTTPRequestHandler], int | None] = lambda delivery, handler: 204
        self.over = threading.Event()
        self.sent = 0  # in mebibytes
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                document = Webhook(WEBHOOK_SECRET).verify(body, headers)
                delivery = Delivery(headers["webhook-id"], headers, body, document)
                receiver.deliveries.append(delivery)
                status = receiver.answer(delivery, self)
                if status is not None:
                    self.send_response(status)
                    self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # with the default of 5, connections that come at one time wait for seconds

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the deliverer ended the connection, as the test wants

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/webhooks?key=secret-of-the-url"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def numbers(self, user_id: str) -> list[int]:
        """Return the numbers of a learner's events, in the order in which they came."""
        return [delivery.number for delivery in self.deliveries if delivery.user_id == user_id]

    def hang(self, delivery: Delivery, handler: BaseHTTPRequestHandler) -> None:
        """Never answer."""
        self.over.wait(60)

    def drip(self, delivery: Delivery, handler: BaseHTTPRequestHandler) -> None:
        """Answer with headers that never end, a byte now and then."""
        handler.send_response(200)
        handler.flush_headers()
        while not self.over.wait(0.05):
            handler.wfile.write(b"x")

    def stream(self, delivery: Delivery, handler: BaseHTTPRequestHandler) -> None:
        """Answer 200, with a body of 100 MB."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(100 * MEBIBYTE))
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * MEBIBYTE)
            self.sent += 1


def wait_for(fact: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def writing(url: str, user_id: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection in a transaction that has locked the learner, as a write has."""
    with closing(psycopg.connect(url, cursor_factory=psycopg.RawCursor)) as connection, connection.transaction():
        statements.run(connection, "lock", user_id=user_id)
        yield connection


def add_to(connection: psycopg.Connection[Any], user_id: str, *numbers: int) -> None:
    """Add events of a learner in a transaction that has locked the learner."""
    events: list[outbox.Event] = [
        {"type": "lesson.completed", "data": {"userId": user_id, "number": number}} for number in numbers
    ]
    for name, parameters in outbox.adding(user_id, events):
        statements.run(connection, name, **parameters)


def add(url: str, user_id: str, *numbers: int) -> None:
    """Add events of a learner in one write, as the calls do."""
    with writing(url, user_id) as connection:
        add_to(connection, user_id, *numbers)


def table(db: psycopg.Connection, columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of every event, in the order of the events."""
    return db.execute(f"select {columns} from events order by id".encode()).fetchall()


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
