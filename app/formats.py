"""How ids and times are written: for the calls, for Stripe's events and for the tasks."""

import re
from datetime import UTC, datetime, timedelta

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

# RFC 3339 §5.6. datetime.fromisoformat alone would also accept dates without hyphens, week dates, a comma before the
# fraction, dates without a time, offsets with 99 minutes and, from Python 3.13 on, 24:00.
DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:)(\d\d)(\.\d+)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)


def completed_at(text: str) -> str:
    """Return a `completedAt` as text in UTC for PostgreSQL.

    It is not before 1970, and at most five minutes in the future (contract §3). Raises ValueError, which says why.
    """
    try:
        instant = date_time(text)
    except (ValueError, OverflowError):
        raise ValueError(
            "Must be an RFC 3339 date-time with Z or an offset, such as 2026-11-23T08:42:30.123Z."
        ) from None
    if instant < datetime(1970, 1, 1, tzinfo=UTC):
        raise ValueError("Must not be before 1970-01-01T00:00:00Z.")
    if instant > datetime.now(UTC) + timedelta(minutes=5):
        raise ValueError("Must not be more than five minutes in the future.")
    return instant.isoformat()


def date_time(text: str) -> datetime:
    """Return an RFC 3339 date-time in UTC, its fraction cut to microseconds.

    Raises ValueError, or OverflowError if the year in UTC is below 1 or above 9999.
    """
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
