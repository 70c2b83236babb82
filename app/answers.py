"""The headers of every answer: ETag, Cache-Control, Vary, Idempotency-Key and Learner-Tag (contract §3, §5)."""

import re

from flask import Flask, Response, request
from werkzeug.http import generate_etag, quote_etag

from app.call import current_call

# The answers of these blueprints are public: they are the same for every caller. Every other answer is private to one
# learner (contract §3).
PUBLIC_BLUEPRINTS = ("openapi", "progress_ui", "health", "metrics", "stripe")
WRITE_ENDPOINTS = (
    "progress.mark",
    "progress.unmark",
    "progress.mark_lessons",
    "progress.start_module_over",
    "progress.start_course_over",
    "progress.start_all_over",
)


def answer(document: str, version: str | None = None) -> Response:
    """Answer 200 with a JSON text unchanged. The answer to a GET has an ETag, and is a 304 if If-None-Match has it.

    The ETag is made from the document. A document that says when it was made differs each time. Give its `version`,
    which does not: the ETag is then a weak one.
    """
    body = f"{document}\n".encode()
    response = Response(body, mimetype="application/json")
    if request.method in ("GET", "HEAD"):
        tag(response, body if version is None else version.encode(), weak=version is not None)
    return response


def tag(response: Response, content: bytes, weak: bool = False) -> None:
    """Give a response an ETag made from this content. Make it a 304 if If-None-Match has the same ETag."""
    etag = generate_etag(content)
    response.headers["ETag"] = quote_etag(etag, weak)
    # make_conditional() would also obey Range and If-Match, and would answer 412 with the body of a 200.
    if "If-None-Match" in request.headers and request.if_none_match.contains_weak(etag):
        response.status_code = 304


def is_public() -> bool:
    """Return whether the answer to the current request is the same for every caller."""
    return request.blueprint in PUBLIC_BLUEPRINTS


def valid_idempotency_key() -> str | None:
    """Return the Idempotency-Key of the request. Return None if there is none or it is not valid (contract §3)."""
    key = request.headers.get("Idempotency-Key", "")
    return key if re.fullmatch(r"[!-~]{1,255}", key) else None


def init_app(app: Flask) -> None:
    """Add these headers to every response of `app`, errors included."""
    app.after_request(_add_headers)


def _add_headers(response: Response) -> Response:
    call = current_call()
    # Werkzeug matches `//x` to `/x`. We answered 404, so its endpoint does not count here.
    found = call.code != "not_found"
    if is_public() and found:
        return response
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Authorization, Cookie"
    # There is a tag only after the session was found valid.
    if call.learner_tag:
        response.headers["Learner-Tag"] = call.learner_tag
    if request.endpoint in WRITE_ENDPOINTS and found:
        key = valid_idempotency_key()
        if key:
            response.headers["Idempotency-Key"] = key
    return response
