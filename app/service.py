"""What one process of the service keeps for all its requests: one object, which belongs to the Flask application."""

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
    migrations: list[str]  # their names, as they were when the process started
    session_statement: Statement | None  # None without AUTH_SESSION_TABLE
    key_set: KeySet | None  # None without AUTH_JWKS_URL
    learner_tag_key: bytes | None  # if no setting holds a secret: None until it is read from the database


def service_of(app: Flask) -> Service:
    """Return the parts of an application that create_app made."""
    return cast(Service, app.extensions["progress"])


def current_service() -> Service:
    """Return the parts of the application that answers the current request."""
    return service_of(current_app)
