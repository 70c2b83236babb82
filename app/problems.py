"""Every error answer (contract §4) is a problem document of RFC 9457, and is made here."""

import json
from typing import Any, cast

import psycopg
from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.http import HTTP_STATUS_CODES

from app import logs
from app.call import current_call

# code: status, and the detail, which says what to do. The place that raises a problem may give a more exact detail.
CODES = {
    "unauthenticated": (401, "Sign in: send the site's session cookie, or Authorization: Bearer <token>."),
    "other_learner": (
        412,
        "The Learner-Tag of this request is not the tag of the learner who is signed in, so nothing was stored. Read"
        " the progress again, then send the Learner-Tag of that answer.",
    ),
    "cross_site_request": (
        403,
        "A page of another origin must not write with a cookie. Call from a page of the site itself, or ask the"
        " operator to add the origin to ALLOWED_ORIGINS.",
    ),
    "rate_limited": (429, "Too many writes in a short time. Try again after Retry-After seconds."),
    "invalid_lesson_id": (400, "The lesson id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_module_id": (400, "The module id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_course_id": (400, "The course id in the path must be a UUID version 4, as 8-4-4-4-12 hexadecimal digits."),
    "invalid_include": (400, "Let include name completions, courses or both, each once, with a comma between them."),
    "invalid_idempotency_key": (400, "Send an Idempotency-Key of 1 to 255 visible ASCII characters, or none."),
    "body_too_large": (413, "Send a body of 16 KiB at most."),
    "unsupported_media_type": (415, "Send the body as Content-Type: application/json."),
    "invalid_body": (400, 'Send no body, {}, or { "completedAt": "2026-11-23T08:42:30.123Z" }.'),
    "confirmation_required": (
        400,
        "This call removes the marks of all lessons, so it must say ?all=true. To unmark one lesson, put its id into"
        " the path: a path with an empty id, /lessons/, often arrives as /lessons.",
    ),
    "not_enrolled": (403, "Progress needs an active subscription, a course, or an enrollment in the free lessons."),
    "lesson_not_found": (404, "There is no lesson with this id."),
    "module_not_found": (404, "There is no module with this id that has lessons for this learner."),
    "course_not_found": (404, "There is no course with this id that has lessons for this learner."),
    "lesson_not_available": (400, "This lesson is unpublished, or this learner has no access to it."),
    "lesson_locked": (409, "First complete the lessons that are listed in prerequisites."),
    "invalid_signature": (
        400,
        "The Stripe-Signature header is missing, too old, or not made with the secret of this endpoint"
        " (STRIPE_WEBHOOK_SECRET).",
    ),
    "not_found": (404, "There is nothing at this path. All calls are under /api/progress."),
    "method_not_allowed": (405, "Use one of the methods in the Allow header."),
    "internal_error": (500, "The service failed. Try again. If it fails again, send the X-Request-Id to its operator."),
    "unavailable": (503, "The storage of the service does not answer in time. Try again after Retry-After seconds."),
}

RETRY_AFTER = "2"

UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # The database is set to read only. (If the server is a standby, the error is StandbyError.)
    psycopg.errors.ReadOnlySqlTransaction,
    # A worker was frozen in the middle of a transaction, and the server has ended the transaction.
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)


class Problem(Exception):  # noqa: N818 - the RFC's word
    """An error answer. `code` is a key of CODES.

    `members` go into the document, `headers` into the response, and `error` into the log alone.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        headers: dict[str, str] | None = None,
        error: str = "",
        **members: Any,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status, usual_detail = CODES[code]
        self.detail = detail or usual_detail
        self.headers = headers or {}
        self.error = error
        self.members = members


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
