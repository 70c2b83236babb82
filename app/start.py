"""The check before a start and before a reload: `python -m app.start`.

With `--apply-terms`, which only a start gives, it also applies STRIPE_PRICES and SUBSCRIPTION_GRACE to the stored
subscriptions.

gunicorn.conf.py runs the check as a process of its own. If gunicorn's master imported this code, its workers would
inherit the imported modules, and would still run the old code after a reload (HUP).
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

EVERY_SUBSCRIPTION_WARNING = (
    "STRIPE_PRICES is empty: every active subscription of the Stripe account gives full access, whatever it is for"
)

TERMS_NOT_APPLIED_WARNING = (
    "SUBSCRIPTION_GRACE and STRIPE_PRICES could not be applied to the stored subscriptions; if one of the two settings"
    " has changed, run: make stripe-sync"
)

# The whole check needs a limit of its own: no timeout that follows from DATABASE_TIMEOUT covers a slow name service,
# or a PgBouncer that makes clients wait.
CHECK_SECONDS = 10
# One part of the check takes at most this long, or DATABASE_TIMEOUT if that is less. So there is time for the rest
# after a host of the URL that does not answer, or after a large number of subscriptions.
MAX_PART_SECONDS = 5.0


def main() -> None:
    """Print gunicorn's settings as JSON, or exit with one line that says why the service must not start."""
    bound = Timer(CHECK_SECONDS, _give_up)
    bound.daemon = True
    bound.start()
    try:
        settings = from_environ()
        bounded = replace(settings, database_timeout=min(settings.database_timeout, MAX_PART_SECONDS))
        readiness.check(bounded)
        # This comes last, because a start that is refused must change nothing. It is not done before a reload: the
        # environment of the check may differ, and the workers go on with the settings of the start.
        if settings.stripe_webhook_secrets and "--apply-terms" in sys.argv:
            applied = _apply_terms(bounded)
            if settings.log_level != "error":
                _warn(settings, applied)
    except (SettingsError, NotReadyError) as error:
        sys.exit(str(error))
    bound.cancel()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    gunicorn = {
        "bind": f"{host}:{settings.port}",
        "workers": settings.web_concurrency,
        "threads": settings.web_threads,
        "forwarded_allow_ips": ",".join(map(str, settings.forwarded_allow_ips)),
        # gunicorn's debug lines have the paths of requests, which may hold ids and tokens.
        "loglevel": "info" if settings.log_level == "debug" else settings.log_level,
        # Requests that run when the service is told to stop are still answered. DATABASE_TIMEOUT limits their time.
        "graceful_timeout": math.ceil(settings.database_timeout) + 10,
        "metrics": settings.metrics,
    }
    json.dump(gunicorn, sys.stdout)


def _apply_terms(settings: Settings) -> bool:
    """Apply SUBSCRIPTION_GRACE and STRIPE_PRICES to the rows that the mirror wrote: the settings may have changed.

    This is done here, once, and not by each worker. Returns False if it failed, for instance because there were too
    many subscriptions for the time. Then every learner has the same access as before.
    """
    try:
        with psycopg.Connection.connect(settings.database_url, **connect_options(settings)) as connection:
            apply_terms(connection, access_terms(settings))
    except psycopg.errors.InsufficientPrivilege as error:  # the rights of an earlier version
        raise NotReadyError(
            f"DATABASE_URL: {error.diag.message_primary}; was deploy/grants.sql run after make migrate?"
        ) from None
    except psycopg.Error:  # the time was over, or a lock was in the way: the service can work all the same
        return False
    return True


def _warn(settings: Settings, terms_applied: bool) -> None:
    """Warn the operator on standard error, as gunicorn does. This is done here, once, and not by each worker."""
    if not settings.stripe_prices:
        print(EVERY_SUBSCRIPTION_WARNING, file=sys.stderr)
    if not terms_applied:
        print(TERMS_NOT_APPLIED_WARNING, file=sys.stderr)


def _give_up() -> None:
    sys.stderr.write(
        f"DATABASE_URL: no answer within {CHECK_SECONDS} seconds; the database, a pooler or the name service hangs,"
        " or somebody holds a lock\n"
    )
    sys.stderr.flush()
    # sys.exit() would not do: the main thread waits in C code, which no exception interrupts.
    os._exit(1)


if __name__ == "__main__":
    main()
