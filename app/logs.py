"""The log: which messages are written, and in which form. Errors are told without the values of rows."""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TextIO

import psycopg


def name(error: BaseException) -> str:
    """Return the name of an error. An error of PostgreSQL's has its SQLSTATE, too: `UniqueViolation 23505`."""
    return f"{type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".rstrip()


def describe(error: BaseException) -> str:
    """Return the traceback of an error, after the tracebacks of the errors that led to it.

    The text of an error of PostgreSQL's may hold values of rows. An error that was raised while such an error was
    handled may quote that text. Of both kinds, only the names are returned.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        chain.insert(0, current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    parts = []
    may_hold_values = False
    for each in chain:
        may_hold_values = may_hold_values or isinstance(each, psycopg.Error)
        last_line = [name(each), "\n"] if may_hold_values else traceback.format_exception_only(each)
        stack = traceback.format_tb(each.__traceback__)
        parts.append("".join(["Traceback (most recent call last):\n", *stack, *last_line]))
    return "\nDuring handling of the above exception, another exception occurred:\n\n".join(parts)


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return describe(ei[1])


class JsonFormatter(_Formatter):
    """Writes a line of JSON: the time, the level, and the fields of a request or the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. It is ASCII, so that no value in it can begin a new line or imitate one."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class ReadableFormatter(_Formatter):
    """Writes a line for people: `14:03:07 GET /api/progress/summary 200 3 ms`, and then what went wrong."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback if there is one."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = getattr(record, "fields", None)
        if fields is None:
            return f"{time} {super().format(record)}"
        words = [time, fields["method"], fields["route"], fields["status"], f"{fields['duration_ms']:.0f} ms"]
        words += [fields[name] for name in ("code", "error") if name in fields]
        return " ".join(str(word) for word in words) + (f"\n{fields['traceback']}" if "traceback" in fields else "")


def configure(level: str, formatter: logging.Formatter, stream: TextIO | None = None) -> None:
    """Write every message of `level` and above to a stream, by default to standard output."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        # These libraries log more about a request than the service does. About a failed request they repeat what the
        # line of the request says.
        logging.getLogger("psycopg").setLevel("ERROR")
        logging.getLogger("psycopg.pool").setLevel("WARNING")
        logging.getLogger("psycopg.pool").addFilter(_once_a_minute())
        logging.getLogger("flask-limiter").setLevel("WARNING")
    # urllib3 quotes URLs and what a server sent. app/keys/jwks.py logs what failed, without either.
    logging.getLogger("urllib3").setLevel("ERROR")
    logging.getLogger("gunicorn.error").addFilter(_remove_quoted_request)


def _once_a_minute() -> Callable[[logging.LogRecord], bool]:
    """Return a filter that lets each message pass once a minute.

    During an outage the pool logs the same message twice a second.
    """
    last_passed: dict[str, float] = {}  # message: seconds of the monotonic clock

    def passes(record: logging.LogRecord) -> bool:
        # The pool's messages have the address of a connection in memory, which differs each time.
        text, now = re.sub(" at 0x[0-9a-f]+", "", record.getMessage()), monotonic()
        if now - last_passed.get(text, -60.0) < 60:
            return False
        if len(last_passed) > 100:
            last_passed.clear()
        last_passed[text] = now
        return True

    return passes


def _remove_quoted_request(record: logging.LogRecord) -> bool:
    # gunicorn quotes the part of a request that it could not read, or the URL. There may be a token in both.
    if str(record.msg).startswith(("Invalid request", "Error handling request")):
        record.msg, record.args = re.split("['\"]| %s", record.msg)[0].rstrip(": "), ()
    return True
