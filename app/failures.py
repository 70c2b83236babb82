"""Turns every failure of a request into a problem document of RFC 9457."""

import json
from typing import cast

import psycopg
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.http import HTTP_STATUS_CODES

from app import logs
from app.call import current_call
from app.problems import RETRY_AFTER, Problem

UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # The database is set to read only. (If the server is a standby, the error is StandbyError.)
    psycopg.errors.ReadOnlySqlTransaction,
    # A worker was frozen in the middle of a transaction, and the server has ended the transaction.
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)


def init_app(app: Flask) -> None:
    """Answer every failure in `app`, on known and unknown paths, with a problem document."""
    app.register_error_handler(Problem, respond)
    app.register_error_handler(HTTPException, _http_exception)
    for error in UNAVAILABLE:
        app.register_error_handler(error, unavailable)
    app.register_error_handler(Exception, _internal_error)
    app.before_request(_refuse_double_slash)


def respond(problem: Problem) -> Response:
    """Return the response of a problem.

    `code` already names the problem, so the type is about:blank. Then the title is the name of the status (RFC 9457
    §4.2.1).
    """
    call = current_call()
    call.code = problem.code
    call.error = problem.error or call.error
    document = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[problem.status],
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.members,
    }
    return Response(
        json.dumps(document) + "\n", problem.status, {**problem.headers, "Content-Type": "application/problem+json"}
    )


def _refuse_double_slash() -> None:
    # Werkzeug removes all but one of the slashes at the beginning of a path. Only the WSGI environment still has them.
    if "//" in request.environ.get("PATH_INFO", ""):
        raise Problem("not_found")


def _http_exception(error: HTTPException) -> Response:
    original = getattr(error, "original_exception", None)
    if original is not None:
        # An error handler or an after-request hook raised this error, and Flask wrapped it in an InternalServerError.
        return cast(Response, current_app.handle_user_exception(original))
    # The service has no WebSocket routes. Werkzeug would answer 400 or 405, depending on the method.
    if _wants_a_websocket():
        return respond(Problem("not_found"))
    if isinstance(error, MethodNotAllowed):
        return respond(Problem("method_not_allowed", headers={"Allow": ", ".join(sorted(error.valid_methods or ()))}))
    code = {404: "not_found", 413: "body_too_large"}.get(error.code or 0)
    return respond(Problem(code)) if code else _internal_error(error)


def _wants_a_websocket() -> bool:
    """Return whether Werkzeug takes the request for a WebSocket request, which matches no HTTP route."""
    connection, upgrade = (request.headers.get(name, "").lower() for name in ("Connection", "Upgrade"))
    return "upgrade" in (token.strip() for token in connection.split(",")) and upgrade == "websocket"


def unavailable(error: Exception) -> Response:
    """Answer 503: the database failed, or the storage of the write limit did."""
    # psycopg raises OperationalError for the SQLSTATE classes 08, 40, 53, 54, 55, 57 and 58, for a pool without a free
    # connection, and for a connection that breaks. It raises InterfaceError for a connection that broke earlier. The
    # library limits wraps an error of its storage in an error of its own.
    current_call().error = logs.name(getattr(error, "storage_error", error))
    retry_after = current_call().retry_after or RETRY_AFTER
    return respond(Problem("unavailable", headers={"Retry-After": retry_after}))


def _internal_error(error: Exception) -> Response:
    call = current_call()
    call.error = logs.name(error)
    call.traceback = logs.describe(error)
    return respond(Problem("internal_error"))
