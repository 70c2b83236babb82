"""What the service says: a line for each request, in the same form as whatever else is logged, on standard output."""

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic, perf_counter
from typing import Any

import psycopg
from flask import Flask, Response, request

from app.call import begin_call, current_call

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

# The fields of the call that are logged. backend_pid is %p in the log of PostgreSQL; error and traceback say why the
# request failed or was refused.
FIELDS = ("user_id", "code", "error", "traceback", "stripe", "backend_pid")

_requests = logging.getLogger("progress.requests")


def name(error: BaseException) -> str:
    """The name of an error; of one of PostgreSQL's with its SQLSTATE: `UniqueViolation 23505`."""
    return f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".rstrip()


def describe(error: BaseException) -> str:
    """The traceback of an error, after those of the errors that led to it.

    The text of PostgreSQL's errors may hold values of rows, and whatever was raised while one was handled may quote it.
    Of these only the names are told.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        chain.insert(0, current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    parts = []
    quotes = False
    for each in chain:
        quotes = quotes or isinstance(each, psycopg.Error)
        said = [name(each), "\n"] if quotes else traceback.format_exception_only(each)
        parts.append("".join(["Traceback (most recent call last):\n", *traceback.format_tb(each.__traceback__), *said]))
    return "\nDuring handling of the above exception, another exception occurred:\n\n".join(parts)


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return describe(ei[1])


class JsonFormatter(_Formatter):
    """A line of JSON: time, level, and the fields of a request or the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; it is ASCII, so that nothing in it can break or fake another."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class ReadableFormatter(_Formatter):
    """A line for people: `14:03:07 GET /api/progress/summary 200 3 ms`, and what went wrong."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback below it where there is one."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = getattr(record, "fields", None)
        if fields is None:
            return f"{time} {super().format(record)}"
        words = [time, fields["method"], fields["route"], fields["status"], f"{fields['duration_ms']:.0f} ms"]
        words += [fields[name] for name in ("code", "error") if name in fields]
        return " ".join(str(word) for word in words) + (f"\n{fields['traceback']}" if "traceback" in fields else "")


def configure(level: str, formatter: logging.Formatter) -> None:
    """Send everything of `level` and above to standard output, in the process that serves."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        # They say more of each request than the request itself; of one that failed, what its own line has.
        logging.getLogger("psycopg").setLevel("ERROR")
        logging.getLogger("psycopg.pool").setLevel("WARNING")
        logging.getLogger("psycopg.pool").addFilter(_once_a_minute({}))
        logging.getLogger("flask-limiter").setLevel("WARNING")
    # It quotes URLs, and what a server sent. What failed is told by app/keys/download.py.
    logging.getLogger("urllib3").setLevel("ERROR")
    logging.getLogger("gunicorn.error").addFilter(_cut_what_came)


def _once_a_minute(said: dict[str, float]) -> Callable[[logging.LogRecord], bool]:
    """Make a filter that passes each message once a minute: during an outage the pool says the same twice a second."""

    def passes(record: logging.LogRecord) -> bool:
        # A connection's text has its address in memory, which is another one each time.
        text, now = re.sub(" at 0x[0-9a-f]+", "", record.getMessage()), monotonic()
        if now - said.get(text, -60.0) < 60:
            return False
        if len(said) > 100:
            said.clear()
        said[text] = now
        return True

    return passes


def _cut_what_came(record: logging.LogRecord) -> bool:
    # gunicorn quotes what it could not read of a request, or its URL: there may be a token in it.
    if str(record.msg).startswith(("Invalid request", "Error handling request")):
        record.msg, record.args = re.split("['\"]| %s", record.msg)[0].rstrip(": "), ()
    return True


def init_app(app: Flask) -> None:
    """Give every request of `app` an id, which is answered and logged, and a line when it has been answered.

    The line has no path, for the ids in it; no header and no body, for what they may hold.
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
