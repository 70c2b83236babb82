"""For those who watch the service, without a session: is the process alive, and can it serve?"""

from time import monotonic

import psycopg
from flask import Blueprint, Response

from app import problems
from app.call import current_call
from app.database import readiness
from app.problems import RETRY_AFTER, Problem
from app.service import current_service

blueprint = Blueprint("health", __name__)

# Seconds. A probe must not stand in the queue of the requests for long.
READY_WITHIN = 1.0


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    return _ok()


@blueprint.get("/readyz")
def readyz() -> Response:
    """The database answers, is fit, and has every migration that this code was started with; else 503 `unavailable`."""
    service = current_service()
    call = current_call()
    call.is_probe = True
    call.deadline = monotonic() + min(READY_WITHIN, service.settings.database_timeout)
    try:
        unfit = service.pool.use(
            "readiness",
            lambda connection: (
                readiness.unfit(connection, service.settings) or readiness.unable_to_add(connection, service.settings)
            ),
            again=True,
        )
        applied = service.pool.use("applied_migrations", readiness.applied_migrations, again=True)
    except psycopg.Error as error:  # whatever it is, a role without rights, say, nothing can be served
        return problems.unavailable(error)
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
