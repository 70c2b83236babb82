"""The write limit (contract §6): Flask-Limiter's moving window, counted in PostgreSQL or, by a setting, in Redis."""

import math
import time
from typing import Any, NoReturn, cast

import psycopg
from flask import Flask, Response, request
from flask_limiter import Limiter, RateLimitExceeded, RequestLimit
from limits.errors import StorageError
from limits.storage import MovingWindowSupport, Storage

from app import failures
from app.answers import WRITE_ENDPOINTS
from app.call import current_call
from app.database import statements
from app.problems import Problem
from app.service import current_service, service_of


class DatabaseStorage(Storage, MovingWindowSupport):
    """A storage for the library limits in the service's own database. A hit is one statement, in one trip.

    A hit is a transaction of its own. So a write counts even if it is rolled back later.
    """

    STORAGE_SCHEME = ["database"]  # noqa: RUF012 - as limits declares it

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """The errors that limits wraps in a StorageError."""
        return (psycopg.OperationalError, psycopg.InterfaceError)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit, unless there were `limit` hits in the last `expiry` seconds of the database's clock.

        A hit whose connection breaks may count twice. That is better than to refuse the write.
        """
        parameters = {"key": key, "amount": str(limit), "window": str(expiry)}
        hit = current_service().pool.use(
            "limits/hit",
            lambda connection: statements.run(connection, "limits/hit", **parameters).fetchone(),
            again=True,
        )
        return hit is not None

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the window began, in seconds since 1970 of this machine's clock, and how many hits it has.

        The caller compares this with time.time(). The clock of the database may differ from it by any amount.
        """
        pool = current_service().pool
        window = statements.one(pool.read("limits/window", key=key, amount=str(limit), window=str(expiry)))
        return time.time() - (window["age"] or 0), window["hits"]

    def _not_used(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError

    # The library limits requires these methods. A moving window uses none of them.
    incr = get = get_expiry = check = reset = clear = _not_used


MAX_REDIS_SECONDS = 0.5


def init_app(app: Flask) -> None:
    """Limit the writes of `app`. Each write counts as soon as its session is verified, whatever its answer will be."""
    settings = service_of(app).settings
    if settings.rate_limit_writes is None:
        return
    options: dict[str, Any] = {"wrap_exceptions": True}
    if settings.rate_limit_storage_uri:
        # While Redis hangs, each write waits for it and occupies a thread. A healthy Redis answers in milliseconds.
        seconds = min(MAX_REDIS_SECONDS, settings.database_timeout / 2)
        options |= {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    limiter = Limiter(
        key_func=lambda: current_call().user_id,
        strategy="moving-window",
        storage_uri=settings.rate_limit_storage_uri or "database://",
        storage_options=options,
        key_prefix="progress",
    )
    limiter.init_app(app)
    # Flask-Limiter looks for limits before every request. This filter tells it that most requests have none.
    limiter.request_filter(lambda: request.endpoint not in WRITE_ENDPOINTS)
    limit: Any = limiter.shared_limit(str(settings.rate_limit_writes), scope="writes")
    for endpoint in WRITE_ENDPOINTS:
        # Limit the view and not the blueprint: a limit of the blueprint would count before the session is verified.
        app.view_functions[endpoint] = limit(app.view_functions[endpoint])
    allowed = str(settings.rate_limit_writes).replace("per 1 ", "per ")

    def refuse(_: RateLimitExceeded) -> Response:
        return failures.respond(
            Problem(
                "rate_limited",
                f"The limit is {allowed} for all writes together. Try again after Retry-After seconds.",
                {"Retry-After": str(_retry_after(limiter))},
            )
        )

    app.register_error_handler(RateLimitExceeded, refuse)
    app.register_error_handler(StorageError, failures.unavailable)


def _retry_after(limiter: Limiter) -> int:
    """Return the smallest whole number of seconds, at least 1, after which the next write is allowed."""
    refused = cast(RequestLimit, limiter.current_limit)
    # `reset_at` would be a second too late: 61 seconds for a window of 60 seconds that has just begun.
    window = refused.window
    if window.remaining > 0:  # the window has moved on since the write was refused
        return 1
    return max(1, math.ceil(window.reset_time - time.time()))
