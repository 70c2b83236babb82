"""What every answer carries: ETag and 304, Cache-Control and Vary, Idempotency-Key, Learner-Tag (contract §3, §5)."""

from flask import Flask, Response, request
from werkzeug.http import generate_etag

from app import checks
from app.call import current_call


def answer(document: str) -> Response:
    """Answer 200 with JSON text as it is; to a GET with an ETag, or 304 where If-None-Match has it already."""
    body = f"{document}\n".encode()
    response = Response(body, mimetype="application/json")
    if request.method in ("GET", "HEAD"):
        tag(response, body)
    return response


def tag(response: Response, body: bytes) -> None:
    """Give a response with this body its ETag, and make it 304 where If-None-Match has that already."""
    etag = generate_etag(body)
    response.headers["ETag"] = f'"{etag}"'
    # Not make_conditional(): that also answers If-Match, with a 412 which has the body of a 200, and Range.
    if "If-None-Match" in request.headers and request.if_none_match.contains_weak(etag):
        response.status_code = 304


def init_app(app: Flask) -> None:
    """Give every response of `app`, errors too, the headers that all have."""
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    # A path that begins with `//` is nobody's, though Werkzeug finds an endpoint by it.
    call = current_call()
    found = call.code != "not_found"
    # Nobody's own (contract §3).
    if request.blueprint in ("openapi", "progress_ui", "health", "metrics", "stripe") and found:
        return response
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Authorization, Cookie"
    # Only once the session was found valid.
    if call.learner_tag:
        response.headers["Learner-Tag"] = call.learner_tag
    if request.endpoint in ("progress.mark", "progress.unmark") and found:
        key = checks.valid_idempotency_key()
        if key:
            response.headers["Idempotency-Key"] = key
    return response
