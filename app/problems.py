"""Every error answer (contract §4): RFC 9457 problem documents, made here and nowhere else."""

import json
from typing import Any, cast

import psycopg
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.http import HTTP_STATUS_CODES

from app import logs
from app.call import current_call

# code: status and what to do about it, where the place that raises it knows no better.
CODES = {
    "unauthenticated": (401, "Sign in: send the site's session cookie, or Authorization: Bearer <token>."),
    "other_learner": (
        412,
        "Learner-Tag is not that of this session's learner, so nothing was stored. Read the learner's progress again,"
        " then send the tag of that answer.",
    ),
    "cross_site_request": (
        403,
        "A page of another origin may not write with a cookie. Call from the site itself, or have the origin allowed"
        " (ALLOWED_ORIGINS).",
    ),
    "rate_limited": (429, "Too many changes at once. Try again after Retry-After seconds."),
    "invalid_lesson_id": (400, "The lesson id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_module_id": (400, "The module id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_idempotency_key": (400, "Send an Idempotency-Key of 1 to 255 visible ASCII characters, or none."),
    "body_too_large": (413, "Send a body of 16 KiB at most."),
    "unsupported_media_type": (415, "Send the body as Content-Type: application/json, or send none."),
    "invalid_body": (400, 'Send no body, {}, or { "completedAt": "2026-11-23T08:42:30.123Z" }.'),
    "not_enrolled": (403, "Progress needs an active subscription or an enrollment in the free lessons."),
    "lesson_not_found": (404, "There is no lesson with this id."),
    "module_not_found": (404, "There is no module with this id that has lessons for this learner."),
    "lesson_not_available": (400, "This lesson is unpublished, or not part of what this learner has access to."),
    "lesson_locked": (409, "Complete the lessons in prerequisites first."),
    "invalid_signature": (
        400,
        "The Stripe-Signature header is missing, too old, or not made with the secret of this endpoint"
        " (STRIPE_WEBHOOK_SECRET).",
    ),
    "not_found": (404, "There is nothing at this path. All calls are under /api/progress."),
    "method_not_allowed": (405, "Use one of the methods in the Allow header."),
    "internal_error": (500, "The service failed. Try again; if it stays, tell those who run it."),
    "unavailable": (503, "The service cannot reach its database in time. Try again after Retry-After seconds."),
}

RETRY_AFTER = "2"

UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # A database that is set to read only. On a standby it is a StandbyError.
    psycopg.errors.ReadOnlySqlTransaction,
    # A worker that was frozen within a transaction, and found it ended.
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An error answer. `code` is a key of CODES; `members` are added to the document, `headers` to the response."""

    def __init__(
        self, code: str, detail: str | None = None, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status, standard = CODES[code]
        self.detail = detail or standard
        self.headers = headers or {}
        self.members = members


def init_app(app: Flask) -> None:
    """Answer whatever fails in `app`, on known and unknown paths, with a problem document."""
    app.register_error_handler(Problem, respond)
    app.register_error_handler(HTTPException, _http_exception)
    for error in UNAVAILABLE:
        app.register_error_handler(error, unavailable)
    app.register_error_handler(Exception, _internal_error)
    app.before_request(_double_slash)


def respond(problem: Problem) -> Response:
    """Make the response of a problem. Its type is about:blank, as `code` says it all; so its title is the status's."""
    current_call().code = problem.code
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


def _double_slash() -> None:
    # Werkzeug drops the slashes that a path begins with but for one, so only the environment still has them.
    if "//" in request.environ.get("PATH_INFO", ""):
        raise Problem("not_found")


def _http_exception(error: HTTPException) -> Response:
    original = getattr(error, "original_exception", None)
    if original is not None:
        # Raised by an error handler or an after-request hook. Flask puts an InternalServerError around it.
        return cast(Response, current_app.handle_user_exception(original))
    if _wants_a_websocket():  # there is no such thing here; Werkzeug says so of GET alone
        return respond(Problem("not_found"))
    if isinstance(error, MethodNotAllowed):
        return respond(Problem("method_not_allowed", headers={"Allow": ", ".join(sorted(error.valid_methods or ()))}))
    code = {404: "not_found", 413: "body_too_large"}.get(error.code or 0)
    return respond(Problem(code)) if code else _internal_error(error)


def _wants_a_websocket() -> bool:
    """Whether Werkzeug took the request for one of WebSocket, which it then compares with no route of HTTP."""
    connection, upgrade = (request.headers.get(name, "").lower() for name in ("Connection", "Upgrade"))
    return "upgrade" in (token.strip() for token in connection.split(",")) and upgrade == "websocket"


def unavailable(error: Exception) -> Response:
    """Answer 503 for a failure of what the service stands on: its database, or the storage of the write limit."""
    # OperationalError is psycopg's name for the SQLSTATE classes 08, 40, 53, 54, 55, 57 and 58, for a pool without a
    # free connection and for a connection that broke; InterfaceError for one that broke earlier. limits puts an error
    # of its own around what its storage met.
    current_call().error = logs.name(getattr(error, "storage_error", error))
    retry_after = current_call().retry_after or RETRY_AFTER
    return respond(Problem("unavailable", headers={"Retry-After": retry_after}))


def _internal_error(error: Exception) -> Response:
    call = current_call()
    call.error = logs.name(error)
    call.traceback = logs.describe(error)
    return respond(Problem("internal_error"))
