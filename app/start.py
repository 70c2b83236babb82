"""The check before the start: `python -m app.start`, run by gunicorn.conf.py in a process of its own.

What gunicorn's master imported itself, its workers would inherit, and a reload (HUP) would go on with old code.
"""

import json
import math
import sys

from app import database
from app.settings import SettingsError, from_environ


def main() -> None:
    """Print gunicorn's settings as JSON, or exit with one line that says why the service must not start."""
    try:
        settings = from_environ()
        database.check(settings)
    except (SettingsError, database.NotReadyError) as error:
        sys.exit(str(error))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    gunicorn = {
        "bind": f"{host}:{settings.port}",
        "workers": settings.web_concurrency,
        "threads": settings.web_threads,
        "forwarded_allow_ips": settings.forwarded_allow_ips,
        # Its debug lines have the paths of requests, in which anything may be.
        "loglevel": "info" if settings.log_level == "debug" else settings.log_level,
        # What is running when the service is told to stop is answered; DATABASE_TIMEOUT bounds it.
        "graceful_timeout": math.ceil(settings.database_timeout) + 10,
        "metrics": settings.metrics,
    }
    json.dump(gunicorn, sys.stdout)


if __name__ == "__main__":
    main()
