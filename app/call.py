"""What the service knows of the request that it answers: one object, which each step of the request adds to."""

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
    deadline: float | None = None  # of all that is asked of the database, in seconds of the monotonic clock
    is_probe: bool = False  # it waits for less than a request may: its deadline tells nothing of the database
    statement: str = ""  # the last that was sent; of several that were sent together, the one that failed
    statements: list[tuple[str, float]] = field(default_factory=list)  # each trip to the database, with its seconds
    backend_pid: int = 0  # of the last connection that was used
    retry_after: str = ""  # seconds until the next attempt to connect, if the database was down when it was last used


def begin_call(request_id: str) -> None:
    """Begin a request: nothing is left of an earlier one in the same context."""
    g.call = Call(request_id)


def current_call() -> Call:
    """Return the object of the current request. Outside of a request it belongs to the application context."""
    # One look into the context. Each attribute that is read from the proxy `g` would be another one.
    known = vars(g._get_current_object())
    if "call" not in known:
        known["call"] = Call()
    return cast(Call, known["call"])
