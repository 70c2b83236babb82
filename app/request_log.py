"""The id of each request, and its line in the log."""

import logging
import re
import uuid
from time import perf_counter
from typing import Any

from flask import Flask, Response, request

from app.call import begin_call, current_call

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

# The fields of the call that are logged. backend_pid is the %p of PostgreSQL's own log. error and traceback say why the
# request failed or was refused.
FIELDS = ("user_id", "code", "error", "traceback", "stripe", "backend_pid")

_requests = logging.getLogger("progress.requests")


def init_app(app: Flask) -> None:
    """Give every request of `app` an id and a log line. The id is in the answer and in the line.

    The line has no path, because the path may hold ids. It has no header and no body, because they may hold secrets.
    """
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    begin_call(given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)


def _end(response: Response) -> Response:
    call = current_call()
    response.headers["X-Request-Id"] = call.request_id
    level = logging.ERROR if response.status_code >= 500 else logging.INFO
    if _requests.isEnabledFor(level):
        rule = request.url_rule
        fields: dict[str, Any] = {
            "method": request.method,
            "route": rule.rule if rule else None,
            "status": response.status_code,
            "duration_ms": round((perf_counter() - call.started) * 1000, 2),
            "request_id": call.request_id,
        }
        fields |= {name: value for name in FIELDS if (value := getattr(call, name))}
        if response.status_code >= 500 and call.statement:
            fields["statement"] = call.statement
        _requests.log(level, "request", extra={"fields": fields})
    return response
