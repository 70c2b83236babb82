"""What a caller sends: path ids, the Idempotency-Key, the body of a mark. Each fault is its 4xx of contract §4."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import request
from marshmallow import Schema, ValidationError, fields
from werkzeug.exceptions import RequestEntityTooLarge

from app.answers import valid_idempotency_key
from app.problems import Problem

MAX_BODY_BYTES = 16 * 1024  # bytes

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

# RFC 3339 §5.6; datetime.fromisoformat alone also takes basic forms, week dates, commas, bare dates, offsets with 99
# minutes and, from Python 3.13 on, 24:00.
DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:)(\d\d)(\.\d+)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)


def lesson_id(text: str) -> str:
    """Return a lesson id from the path as it came, or raise Problem invalid_lesson_id."""
    if not UUID4.fullmatch(text):
        raise Problem("invalid_lesson_id")
    return text


def module_id(text: str) -> str:
    """Return a module id from the path as it came, or raise Problem invalid_module_id."""
    if not UUID4.fullmatch(text):
        raise Problem("invalid_module_id")
    return text


def idempotency_key() -> None:
    """Raise Problem invalid_idempotency_key for one that is there and wrong."""
    if "Idempotency-Key" in request.headers and valid_idempotency_key() is None:
        raise Problem("invalid_idempotency_key")


def body(largest: int = MAX_BODY_BYTES, detail: str | None = None) -> bytes | None:
    """Read the request's body; None if it has no end. Raise Problem body_too_large for one over `largest` bytes."""
    try:
        data = request.get_data()
    except RequestEntityTooLarge:
        raise Problem("body_too_large", detail) from None
    # The server's own kinds, for a body that is cut off or wrongly chunked: all the caller's doing.
    except Exception:  # noqa: BLE001
        return None
    if len(data) > largest:
        raise Problem("body_too_large", detail)
    return data


def mark_body() -> str | None:
    """Return the `completedAt` of a mark's body as UTC text for PostgreSQL, None if there is none.

    Raises Problem body_too_large, unsupported_media_type or invalid_body, the last with `errors`: field → messages.
    """
    data = body()
    if data is None:
        raise Problem("invalid_body", "The body could not be read to its end.", errors={})
    if not data:
        return None
    if not request.is_json:
        raise Problem("unsupported_media_type")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Problem("invalid_body", "The body is not JSON in UTF-8.", errors={}) from None
    if not isinstance(document, dict):
        raise Problem("invalid_body", "The body must be a JSON object.", errors={})
    try:
        loaded = _MARK.load(document)
    except ValidationError as error:
        raise Problem("invalid_body", errors=error.messages) from None
    completed_at: datetime | None = loaded.get("completed_at")
    return completed_at.isoformat() if completed_at else None


def date_time(text: str) -> datetime:
    """Parse an RFC 3339 date-time to UTC, its fraction cut to microseconds. Raise ValueError, or OverflowError."""
    match = DATE_TIME.fullmatch(text)
    if not match:
        raise ValueError("not an RFC 3339 date-time")
    start, seconds, fraction, offset = match.groups()
    leap = seconds == "60"
    parsed = datetime.fromisoformat((start + ("59" if leap else seconds) + (fraction or "") + offset).upper())
    utc = parsed.astimezone(UTC)
    if leap:
        utc += timedelta(seconds=1)
        if (utc.day, utc.hour, utc.minute, utc.second) != (1, 0, 0, 0):  # RFC 3339 §5.7
            raise ValueError("a leap second is at 23:59:60 UTC, at the end of a month")
    return utc


class _Instant(fields.Field[datetime]):
    """A `completedAt`: from 1970 to five minutes from now (contract §3)."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        if not isinstance(value, str):
            raise ValidationError("Must be a string.")
        try:
            instant = date_time(value)
        except (ValueError, OverflowError):
            raise ValidationError(
                "Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."
            ) from None
        if instant < datetime(1970, 1, 1, tzinfo=UTC):
            raise ValidationError("Must not be before 1970-01-01T00:00:00Z.")
        if instant > datetime.now(UTC) + timedelta(minutes=5):
            raise ValidationError("Must not be more than five minutes in the future.")
        return instant


class _Mark(Schema):
    completed_at = _Instant(data_key="completedAt", allow_none=True)


_MARK = _Mark()  # built once: building it costs more than all it checks
