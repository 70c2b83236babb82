"""The check before a start and before a reload: `python -m app.start`, which gunicorn.conf.py runs as a process.

With `--judge`, which is for a start alone, it also judges the stored subscriptions again by the settings of Stripe.

What gunicorn's master imported itself, its workers would inherit, and a reload (HUP) would go on with old code.
"""

import json
import math
import os
import sys
from dataclasses import replace
from threading import Timer

import psycopg

from app.database import readiness
from app.database.connection import connect_options
from app.database.readiness import NotReadyError
from app.settings import Settings, SettingsError, from_environ
from app.stripe.mirror import access_terms, apply_terms

EVERY_SUBSCRIPTION = (
    "STRIPE_PRICES is empty: every active subscription of the Stripe account gives full access, whatever it is for"
)

NOT_JUDGED = (
    "the subscriptions that are stored could not be judged by SUBSCRIPTION_GRACE and STRIPE_PRICES; if one of the two"
    " has changed, run: make stripe-sync"
)

# The timeouts of DATABASE_TIMEOUT do not bound the check: none covers the name service, or a PgBouncer that queues.
CHECK_SECONDS = 10
# A part of the check may take this long, or DATABASE_TIMEOUT if that is less. A host of the URL that does not answer,
# or a large number of subscriptions, then leaves time for the rest.
PART_SECONDS = 5.0


def main() -> None:
    """Print gunicorn's settings as JSON, or exit with one line that says why the service must not start."""
    bound = Timer(CHECK_SECONDS, _give_up)
    bound.daemon = True
    bound.start()
    try:
        settings = from_environ()
        bounded = replace(settings, database_timeout=min(settings.database_timeout, PART_SECONDS))
        readiness.check(bounded)
        # Last: a start that is refused must change nothing. And not before a reload, which goes on with the settings of
        # the start, whatever the environment of the check says.
        if settings.stripe_webhook_secrets and "--judge" in sys.argv:
            judged = _judge_subscriptions(bounded)
            if settings.log_level != "error":
                _warn(settings, judged)
    except (SettingsError, NotReadyError) as error:
        sys.exit(str(error))
    bound.cancel()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    gunicorn = {
        "bind": f"{host}:{settings.port}",
        "workers": settings.web_concurrency,
        "threads": settings.web_threads,
        "forwarded_allow_ips": ",".join(map(str, settings.forwarded_allow_ips)),
        # Its debug lines have the paths of requests, in which anything may be.
        "loglevel": "info" if settings.log_level == "debug" else settings.log_level,
        # What is running when the service is told to stop is answered; DATABASE_TIMEOUT bounds it.
        "graceful_timeout": math.ceil(settings.database_timeout) + 10,
        "metrics": settings.metrics,
    }
    json.dump(gunicorn, sys.stdout)


def _judge_subscriptions(settings: Settings) -> bool:
    """Judge again what the mirror wrote: SUBSCRIPTION_GRACE or STRIPE_PRICES may be new. Once, and not per worker.

    Returns False if that failed, for instance because there was too much to judge in time; then nothing was changed.
    """
    try:
        with psycopg.Connection.connect(settings.database_url, **connect_options(settings)) as connection:
            apply_terms(connection, access_terms(settings))
    except psycopg.errors.InsufficientPrivilege as error:  # the rights of an earlier version
        raise NotReadyError(
            f"DATABASE_URL: {error.diag.message_primary}; was deploy/grants.sql run after make migrate?"
        ) from None
    except psycopg.Error:  # too many, a lock, a read-only database: the service can do its work all the same
        return False
    return True


def _warn(settings: Settings, judged: bool) -> None:
    """Say once, and not per worker, what an operator may have overlooked: on standard error, as gunicorn does."""
    if not settings.stripe_prices:
        print(EVERY_SUBSCRIPTION, file=sys.stderr)
    if not judged:
        print(NOT_JUDGED, file=sys.stderr)


def _give_up() -> None:
    sys.stderr.write(
        f"DATABASE_URL: no answer within {CHECK_SECONDS} seconds; the database, a pooler or the name service hangs,"
        " or somebody holds a lock\n"
    )
    sys.stderr.flush()
    # The main thread is in a call of C that no exception ends.
    os._exit(1)


if __name__ == "__main__":
    main()
