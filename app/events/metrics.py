"""The metrics of `make deliver`. It serves them itself, because it is another process than the service."""

from typing import Any

import prometheus_client
from prometheus_client import Counter, Gauge

ATTEMPTS = Counter("progress_event_attempts", "Attempts to deliver an event, by outcome.", ["outcome"])
# These are counted in the database, so every deliverer has the same values.
WAITING = Gauge("progress_events_waiting", "Events that are not delivered and not given up.")
OLDEST = Gauge("progress_events_oldest_seconds", "Age in seconds of the oldest event that waits; 0 if none does.")
GIVEN_UP = Gauge("progress_events_given_up", "Events that were given up.")


def serve(host: str, port: int) -> None:
    """Serve the metrics, in a thread of their own. Raises OSError if the port is taken."""
    for outcome in ("delivered", "failed", "given_up"):
        ATTEMPTS.labels(outcome)  # so that a rate is known from the first one on
    prometheus_client.start_http_server(port, host)


def count(row: dict[str, Any]) -> None:
    """Set the gauges from the row of events/counts.sql."""
    WAITING.set(row["waiting"])
    OLDEST.set(row["oldest_seconds"] or 0)
    GIVEN_UP.set(row["given_up"])
