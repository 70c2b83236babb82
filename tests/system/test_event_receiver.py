"""The receiver of events in Node.js, as docs/events.md has it, with the library of Standard Webhooks for JavaScript."""

import shutil
from pathlib import Path

from tests.pages import block
from tests.test_event_docs import check_receiver

FOLDER = Path(__file__).parent / "standardwebhooks"


def test_the_receiver_in_node_takes_a_delivery_once_and_refuses_one_changed_byte(environ, database_url, db, tmp_path):
    (tmp_path / "receiver.mjs").write_text(block("js", 'from "standardwebhooks"'))
    shutil.copy(FOLDER / "package.json", tmp_path)
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    check_receiver(["node", "receiver.mjs"], tmp_path, environ, database_url, db)
