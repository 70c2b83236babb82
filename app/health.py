"""The probes, which need no session: is the process alive (/healthz), and can it serve requests (/readyz)?"""

from time import monotonic

import psycopg
from flask import Blueprint, Response

from app import failures
from app.call import current_call
from app.database import readiness
from app.problems import RETRY_AFTER, Problem
from app.service import current_service

blueprint = Blueprint("health", __name__)

# A probe must not wait long behind the requests for a connection.
MAX_READYZ_SECONDS = 1.0


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer 200: the process is alive."""
    return _ok()


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answer 200 if the database answers, is fit, and has every migration of this code; else 503 `unavailable`."""
    service = current_service()
    call = current_call()
    call.is_probe = True
    call.deadline = monotonic() + min(MAX_READYZ_SECONDS, service.settings.database_timeout)
    try:
        unfit = service.pool.use(
            "readiness",
            lambda connection: (
                readiness.unfit(connection, service.settings) or readiness.unable_to_add(connection, service.settings)
            ),
            again=True,
        )
        applied = service.pool.use("applied_migrations", readiness.applied_migrations, again=True)
    except psycopg.Error as error:  # after any error, for instance a missing right, no request can be served
        return failures.unavailable(error)
    if unfit:
        raise _not_ready(f"{unfit[0].upper()}{unfit[1:]}.")
    pending = [name for name in service.migrations if name not in applied]
    if pending:
        raise _not_ready(f"Pending migrations: {', '.join(pending)}. Apply them with: make migrate")
    return _ok()


def _not_ready(detail: str) -> Problem:
    return Problem("unavailable", detail, {"Retry-After": RETRY_AFTER})


def _ok() -> Response:
    return Response('{"status": "ok"}\n', mimetype="application/json")
