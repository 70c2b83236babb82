"""Learner-Tag (contract §5): an opaque word for the learner, by which a page says whose write it means.

The tag is a keyed hash of the user id. Without the key, whoever knows an id, or can guess it, could tell its tag.
"""

import hmac

from flask import Flask, current_app, request

from app import database
from app.call import current_call
from app.problems import Problem
from app.settings import Settings


def init_app(app: Flask) -> None:
    """Derive the key of the tags from the newest secret that sessions are made with, if there is one.

    Every host that verifies the same sessions has the same secret. A learner's own session can already be used to try
    guesses of that secret, so a tag gives nothing away. With the database's password as the key, it would.
    """
    settings: Settings = app.extensions["settings"]
    shared = [key.material for key in settings.auth_jwt_keys if isinstance(key.material, str)]
    secrets = [*settings.auth_secrets, *shared]
    app.extensions["learner_tag_key"] = _derive(secrets[0]) if secrets else None


def check(user_id: str) -> None:
    """Set the learner_tag of the call; raise Problem other_learner for a write that carries another tag."""
    tag = hmac.digest(_key(), user_id.encode(), "sha256")[:16].hex()
    current_call().learner_tag = tag
    if request.method not in ("GET", "HEAD") and request.headers.get("Learner-Tag", tag) != tag:
        raise Problem("other_learner")


def _key() -> bytes:
    # Public keys and a table of sessions are no secrets. The hosts that have nothing else share the database, which has
    # made a key of its own. It is read once for each process.
    key: bytes | None = current_app.extensions["learner_tag_key"]
    if key is None:
        key = _derive(database.one(database.read("learner_tag_key"))["key"])
        current_app.extensions["learner_tag_key"] = key
    return key


def _derive(secret: str) -> bytes:
    # Not the secret itself: what is used for two things must not be of use to one by way of the other.
    return hmac.digest(secret.encode(), b"Learner-Tag", "sha256")
