"""What the service knows about the current request: one object, to which each step of the request adds."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

from flask import g


@dataclass
class Call:
    """One request. A field is empty, 0 or None until its value is known."""

    request_id: str = ""
    started: float = field(default_factory=perf_counter)
    user_id: str = ""  # of the verified session, in lower case
    learner_tag: str = ""
    code: str = ""  # of the problem document that is the answer
    error: str = ""  # why the request failed or was refused: for the log alone
    traceback: str = ""
    stripe: dict[str, str] = field(default_factory=dict)  # of a webhook event: event, type, reason, outcome
    deadline: float | None = None  # for all work in the database, in seconds of the monotonic clock
    is_probe: bool = False  # a probe has a short deadline; that it was missed does not mean that the database is down
    statement: str = ""  # the last one that was sent, or the one that failed of several that were sent together
    statements: list[tuple[str, float]] = field(
        default_factory=list
    )  # each trip to the database: its name, its seconds
    backend_pid: int = 0  # the server process of the last connection that was used
    retry_after: str = (
        ""  # seconds until the next attempt to connect; empty unless the database was down at the last use
    )


def begin_call(request_id: str) -> None:
    """Begin a request with an empty object, so that no value of an earlier request in the same context is left."""
    g.call = Call(request_id)


def current_call() -> Call:
    """Return the object of the current request. Outside of a request it belongs to the application context."""
    # This looks the context up once. Each attribute of the proxy `g` would look it up again.
    known = vars(g._get_current_object())
    if "call" not in known:
        known["call"] = Call()
    return cast(Call, known["call"])
