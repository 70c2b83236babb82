"""Learner-Tag (contract §5): an opaque word for a learner. With it, a page says for which learner a write is meant.

The tag is a keyed hash of the user id. With a hash without a key, anyone who knows or guesses an id could compute its
tag.
"""

import hmac

from flask import request

from app.call import current_call
from app.database.statements import one
from app.problems import Problem
from app.service import current_service
from app.settings import Settings


def key_of(settings: Settings) -> bytes | None:
    """Return the key of the tags, derived from the newest secret of the sessions. Return None if there is no secret.

    Every host that verifies the same sessions has this secret, so every host makes the same tags. A tag lets a learner
    test guesses of the key. For the secret, the learner's own session allows the same already. So the password of the
    database must not be the key.
    """
    shared = [key.material for key in settings.auth_jwt_keys if isinstance(key.material, str)]
    secrets = [*settings.auth_secrets, *shared]
    return _derive(secrets[0]) if secrets else None


def check(user_id: str) -> None:
    """Set the learner_tag of the call. Raise Problem other_learner for a write that sends another tag."""
    tag = hmac.digest(_key(), user_id.encode(), "sha256")[:16].hex()
    current_call().learner_tag = tag
    if request.method not in ("GET", "HEAD") and request.headers.get("Learner-Tag", tag) != tag:
        raise Problem("other_learner")


def _key() -> bytes:
    # A site with only public keys or a table of sessions has no secret. Then all hosts use a key from the database,
    # which they share. Each process reads it once.
    service = current_service()
    if service.learner_tag_key is None:
        service.learner_tag_key = _derive(one(service.pool.read("learner_tag_key"))["key"])
    return service.learner_tag_key


def _derive(secret: str) -> bytes:
    # The secret itself protects the sessions. The tags have a key of their own, so a weakness of the tags does not
    # affect the sessions.
    return hmac.digest(secret.encode(), b"Learner-Tag", "sha256")
