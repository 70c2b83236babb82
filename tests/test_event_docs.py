"""docs/events.md and the `webhooks` of the OpenAPI document: the catalog of events, and a receiver to copy."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonschema_rs import Draft202012Validator

from app.events.outbox import Event
from tests import contract
from tests.conftest import free_port
from tests.pages import PAGES, block, blocks, table
from tests.receiver import WEBHOOK_SECRET, Delivery, Receiver, add, wait_for
from tests.test_events import delivering, states
from tests.world import LEARNER, add_user

WEBHOOKS: dict[str, Any] = contract.DOCUMENT["webhooks"]
TYPES = list(get_args(get_type_hints(Event)["type"]))
PYTHON = block("python", "from standardwebhooks import Webhook")


def test_the_catalog_has_every_type_and_the_examples_of_the_document():
    assert list(WEBHOOKS) == TYPES == [row[0].strip("`") for row in table("docs/events.md", "The events")]
    examples = [json.loads(text) for text in blocks("json", {"": PAGES["docs/events.md"]})]
    bodies = [webhook["post"]["requestBody"]["content"]["application/json"] for webhook in WEBHOOKS.values()]
    assert [body["example"] for body in bodies] == examples
    for body in bodies:
        schema = {"components": contract.DOCUMENT["components"]} | body["schema"]
        assert list(Draft202012Validator(schema).iter_errors(body["example"])) == []


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def post(url: str, delivery: Delivery, body: bytes) -> int:
    headers = {name: value for name, value in delivery.headers.items() if name.startswith("webhook-")}
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def check_receiver(command: list[str], folder: Path, environ: dict[str, str], database_url: str, db: Any) -> None:
    """Deliver a real event to a receiver of the page. Then send it once more, and with one byte changed."""
    add_user(db, LEARNER)
    port = free_port()
    given = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PORT": str(port), "WEBHOOK_SECRET": WEBHOOK_SECRET}
    data = {"userId": LEARNER, "number": 1, "completedAt": "2026-11-23T08:42:30.123Z"}
    with subprocess.Popen(command, cwd=folder, env=given, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            url = f"http://127.0.0.1:{port}/webhooks"
            add(database_url, LEARNER, 1)
            db.execute("update events set data = %s", [json.dumps(data)])
            # A copy of the delivery, to send it again.
            with Receiver() as copy:
                with delivering(environ, copy.url):
                    wait_for(lambda: states(db)["delivered"])
                [delivery] = copy.deliveries
            db.execute("update events set delivered_at = null, next_attempt_at = now(), attempts = 0")
            wait_for(lambda: listens(port))
            with delivering(environ, url):
                wait_for(lambda: states(db)["delivered"])
            assert post(url, delivery, delivery.body) == 204
            for place in range(0, len(delivery.body), 7):
                changed = bytearray(delivery.body)
                changed[place] ^= 1
                assert post(url, delivery, bytes(changed)) == 400, place
        finally:
            receiver.terminate()
            out, _ = receiver.communicate()
    assert [line for line in out.splitlines() if "completed" in line] == [
        f"lesson.completed {LEARNER} 2026-11-23T08:42:30.123Z"
    ]


def test_the_receiver_in_python_takes_a_delivery_once_and_refuses_one_changed_byte(
    environ, database_url, db, tmp_path, monkeypatch
):
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    (tmp_path / "receiver.py").write_text(PYTHON)
    check_receiver([sys.executable, "receiver.py"], tmp_path, environ, database_url, db)


@pytest.mark.parametrize("code", [PYTHON, block("js", 'from "standardwebhooks"')], ids=["python", "node"])
def test_a_receiver_has_about_twenty_lines(code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
