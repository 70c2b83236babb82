"""The write limit (contract §6): Flask-Limiter's moving window, counted in PostgreSQL, or in Redis by one setting."""

import math
import time
from typing import Any

import psycopg
from flask import Flask, Response
from flask_limiter import Limiter, RateLimitExceeded
from limits.errors import StorageError
from limits.storage import MovingWindowSupport, Storage

from app import problems
from app.answers import WRITE_ENDPOINTS
from app.call import current_call
from app.database import statements
from app.problems import Problem
from app.service import current_service, service_of


class DatabaseStorage(Storage, MovingWindowSupport):
    """A storage of limits' in the service's own database: one statement, one trip and one transaction for a hit.

    A transaction of its own, since a write that is refused later must not give its hit back.
    """

    STORAGE_SCHEME = ["database"]  # noqa: RUF012 - as limits declares it

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What limits may wrap."""
        return (psycopg.OperationalError, psycopg.InterfaceError)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit, unless there were `limit` in the last `expiry` seconds of the database's clock.

        A connection that breaks may have it counted twice, which is better than a write that is refused.
        """
        parameters = {"key": key, "amount": str(limit), "window": str(expiry)}
        hit = current_service().pool.use(
            "limits/hit",
            lambda connection: statements.run(connection, "limits/hit", **parameters).fetchone(),
            again=True,
        )
        return hit is not None

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the window began, put on this machine's clock, and how many hits it has.

        Whoever reads it compares it with time.time(); the two clocks may differ by any amount.
        """
        pool = current_service().pool
        window = statements.one(pool.read("limits/window", key=key, amount=str(limit), window=str(expiry)))
        return time.time() - (window["age"] or 0), window["hits"]

    def check(self) -> bool:
        """Nothing asks, but limits wants it."""
        return True

    # Other strategies' and other tools', which the service has no use for.

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    def get(self, key: str) -> int:
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    def reset(self) -> int | None:
        raise NotImplementedError

    def clear(self, key: str) -> None:
        raise NotImplementedError


def init_app(app: Flask) -> None:
    """Limit the writes of `app`, each counted once its session is known, and whatever its answer will be."""
    settings = service_of(app).settings
    if settings.rate_limit_writes is None:
        return
    uri = settings.rate_limit_storage_uri or "database://"
    # A Redis that hangs must not hold a request for longer than the database may.
    seconds = settings.database_timeout / 2
    options: dict[str, Any] = {"wrap_exceptions": True}
    if settings.rate_limit_storage_uri:
        options |= {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    limiter = Limiter(
        key_func=lambda: current_call().user_id,
        strategy="moving-window",
        storage_uri=uri,
        storage_options=options,
        key_prefix="progress",
    )
    limiter.init_app(app)
    # Its hooks look at every request, before its session is known and after it was answered, for nothing that is used
    # here; they cost a GET more than the session does.
    app.before_request_funcs[None].remove(limiter._check_request_limit)  # noqa: SLF001 - it cannot be told not to
    app.after_request_funcs[None].pop()
    allowed = str(settings.rate_limit_writes).replace("per 1 ", "per ")
    limit: Any = limiter.shared_limit(str(settings.rate_limit_writes), scope="writes")
    for endpoint in WRITE_ENDPOINTS:
        app.view_functions[endpoint] = limit(app.view_functions[endpoint])

    def refuse(error: RateLimitExceeded) -> Response:
        return problems.respond(
            Problem(
                "rate_limited",
                f"At most {allowed} can be marked and unmarked. Try again after Retry-After seconds.",
                {"Retry-After": str(_retry_after(limiter))},
            )
        )

    app.register_error_handler(RateLimitExceeded, refuse)
    app.register_error_handler(StorageError, problems.unavailable)


def _retry_after(limiter: Limiter) -> int:
    """The smallest whole number of seconds, at least 1, after which the next write is let through."""
    current: Any = limiter.current_limit
    window = limiter.limiter.get_window_stats(current.limit, *current.request_args)
    if window.remaining > 0:  # it has moved on since the write was refused
        return 1
    return max(1, math.ceil(window.reset_time - time.time()))
