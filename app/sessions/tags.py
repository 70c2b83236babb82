"""Learner-Tag (contract §5): an opaque word for the learner, by which a page says whose write it means.

The tag is a keyed hash of the user id. Without the key, whoever knows an id, or can guess it, could tell its tag.
"""

import hmac

from flask import request

from app.call import current_call
from app.database.statements import one
from app.problems import Problem
from app.service import current_service
from app.settings import Settings


def key_of(settings: Settings) -> bytes | None:
    """Derive the key of the tags from the newest secret that sessions are made with. Return None if there is no secret.

    Every host that verifies the same sessions has this secret, so every host makes the same tags. A learner can already
    test guesses of the secret with their own session, so a tag gives nothing away. If the password of the database were
    the key, a tag would.
    """
    shared = [key.material for key in settings.auth_jwt_keys if isinstance(key.material, str)]
    secrets = [*settings.auth_secrets, *shared]
    return _derive(secrets[0]) if secrets else None


def check(user_id: str) -> None:
    """Set the learner_tag of the call; raise Problem other_learner for a write that carries another tag."""
    tag = hmac.digest(_key(), user_id.encode(), "sha256")[:16].hex()
    current_call().learner_tag = tag
    if request.method not in ("GET", "HEAD") and request.headers.get("Learner-Tag", tag) != tag:
        raise Problem("other_learner")


def _key() -> bytes:
    # Public keys and a table of sessions are no secrets. Hosts that have nothing else share the database, and the
    # database has a key of its own for this. Each process reads it once.
    service = current_service()
    if service.learner_tag_key is None:
        service.learner_tag_key = _derive(one(service.pool.read("learner_tag_key"))["key"])
    return service.learner_tag_key


def _derive(secret: str) -> bytes:
    # Not the secret itself: what is used for two things must not be of use to one by way of the other.
    return hmac.digest(secret.encode(), b"Learner-Tag", "sha256")
