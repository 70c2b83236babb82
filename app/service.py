"""What one process of the service holds for all of its requests: one object, which belongs to the Flask application."""

from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from app.database.pool import Pool
from app.database.statements import Statement
from app.keys.jwks import KeySet
from app.settings import Settings


@dataclass
class Service:
    """The parts that create_app puts together."""

    settings: Settings
    pool: Pool
    migrations: list[str]  # the names of those that this code was started with
    session_statement: Statement | None  # with AUTH_SESSION_TABLE
    key_set: KeySet | None  # with AUTH_JWKS_URL
    learner_tag_key: bytes | None  # None until it is read from the database, where no setting holds a secret


def service_of(app: Flask) -> Service:
    """Return the parts of an application that create_app made."""
    return cast(Service, app.extensions["progress"])


def current_service() -> Service:
    """Return the parts of the application that answers the current request."""
    return service_of(current_app)
