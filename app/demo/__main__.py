"""`make run`: runs the service and all that it needs on this machine, until Ctrl-C."""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import psycopg
from psycopg.rows import dict_row

from app.database.readiness import applied_migrations, known_migrations
from app.demo import postgres
from app.demo.courses import JAVASCRIPT, ODIN, catalog
from app.demo.learners import BUYER, FREE, FULL, HOURS, LEARNERS, NONE, session_cookie
from app.demo.page import RECEIVED
from app.settings import from_environ
from app.tasks import tokens

ROOT = Path(__file__).parent.parent.parent
LOCAL = ROOT / ".local"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Start everything, print how to try it, and stop everything on a signal or when gunicorn ends."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    demo = not os.environ.get("DATABASE_URL", "").strip()
    # Everybody who can reach the demo can sign in to it, so it listens on this machine only.
    host = "127.0.0.1" if demo else os.environ.get("HOST", "").strip() or "127.0.0.1"
    port = os.environ.get("PORT", "").strip() or "8000"
    url = f"http://{host}:{port}"
    LOCAL.mkdir(exist_ok=True)
    with _only_one(url):
        _check_port(host, port)
        environ = os.environ | {"HOST": host}
        server = None
        status = 0
        try:
            if demo:
                _say("starting PostgreSQL in .local/postgres")
                with _signals_held():
                    server, environ["DATABASE_URL"] = postgres.start(LOCAL / "postgres")
                for name in ("AUTH_JWT_SECRET", "AUTH_SECRET", "STRIPE_WEBHOOK_SECRET"):
                    environ[name] = os.environ.get(name, "").strip() or _secret()
                environ.setdefault("STRIPE_PRICES", "price_demoQ7x1")
                _add_receiver(environ, url)
                _fill(environ)
            status = _serve(environ, url, demo)
        except KeyboardInterrupt:
            _say("\nstopping")
        except postgres.StartError as error:
            status = 1
            print(error, file=sys.stderr)
        finally:
            _ignore_signals()
            if server:
                postgres.stop(server, LOCAL / "postgres")
    sys.exit(status)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the shutdown.
    _ignore_signals()
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold the signals of the shutdown until the block has ended.

    A signal between the start of a process and the assignment to its variable would leave the process running: nothing
    would know of it.
    """
    came: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, _interrupt)
        if came:
            signal.raise_signal(came[0])


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed, but the shutdown must go on
        print(line, flush=True)


def _only_one(url: str) -> IO[str]:
    """Lock the file that holds the URL of the running demo. The kernel frees the lock however this process ends."""
    lock = (LOCAL / "run.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        sys.exit(f"already running at {lock.read().strip()}")
    lock.truncate(0)
    lock.write(url)
    lock.flush()
    return lock


def _check_port(host: str, port: str) -> None:
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        sys.exit(f"PORT: {port!r} is not a whole number from 1 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            sys.exit(f"PORT: {host}:{port} cannot be used: {error.strerror}; choose another: make run PORT=8001")


def _secret() -> str:
    """Return the secret of this checkout. The first start creates it, in a file that only the owner can read."""
    path = LOCAL / "secret"
    if not path.exists():
        unfinished = LOCAL / "secret.unfinished"
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(secrets.token_urlsafe(48))
        unfinished.rename(path)
    return path.read_text()


def _add_receiver(environ: dict[str, str], url: str) -> None:
    """Set where events are sent, unless somebody has set a receiver of their own: to the page of the demo."""
    if not environ.get("WEBHOOK_URL", "").strip():
        environ["WEBHOOK_URL"] = f"{url}/demo/webhook"
        environ["WEBHOOK_SECRET"] = "whsec_" + base64.b64encode(_secret().encode()).decode()
    RECEIVED.write_text("")


def _fill(environ: dict[str, str]) -> None:
    """Migrate the demo's database, load the two courses if they are not there, and add the learners."""
    with psycopg.connect(
        environ["DATABASE_URL"], autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row
    ) as connection:
        pending = set(known_migrations()) - set(applied_migrations(connection))
    if pending:  # not at each start, because a task takes half a second to start
        _task(environ, "migrate")
    with psycopg.connect(environ["DATABASE_URL"], autocommit=True) as connection:
        # An earlier version of the demo had the same modules without courses. The rest of its database stays as it is.
        if not connection.execute("select 1 from courses where id = %s", [JAVASCRIPT]).fetchone():
            file = LOCAL / "catalog.json"
            file.write_text(json.dumps(catalog()))
            _task(environ, "load-catalog", str(file), "--partial")
        connection.execute(
            "insert into users (id) select unnest(%s::uuid[]) on conflict do nothing", [[*LEARNERS.values()]]
        )
        connection.execute(
            "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', now() + '1 year')"
            " on conflict (user_id) do update set current_period_end = excluded.current_period_end",
            [FULL],
        )
        # At each start this learner has no access, also after make stripe-event has sold it.
        connection.execute("delete from stripe_subscriptions where claimed_user_id = %s", [NONE])
        connection.execute("delete from subscriptions where user_id = %s", [NONE])
        connection.execute("delete from stripe_payments where claimed_user_id = %s", [NONE])
        connection.execute("delete from stripe_reversals where payment_intent_id ~ '^pi_demo'")
        connection.execute("delete from course_enrollments where user_id = %s", [NONE])
        connection.execute("insert into enrollments (user_id) values (%s) on conflict do nothing", [FREE])
        connection.execute(
            "insert into course_enrollments (user_id, course_id) values (%s, %s) on conflict do nothing",
            [BUYER, JAVASCRIPT],
        )


def _task(environ: dict[str, str], *command: str) -> None:
    # In a session of its own, because otherwise Ctrl-C would end the task halfway, with a traceback.
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *command], cwd=ROOT, env=environ, start_new_session=True, check=False
    )
    if done.returncode:
        raise postgres.StartError(f"{command[0]} failed")


def _serve(environ: dict[str, str], url: str, demo: bool) -> int:
    """Run gunicorn until it ends or a signal arrives. Return the exit status for this program."""
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        "gunicorn.conf.py",
        "--log-level",
        "warning",
        "app.demo.wsgi_page:app" if demo else "app.demo.wsgi:app",
    ]
    terminal = os.isatty(0)
    gunicorn = deliverer = None
    try:
        with _signals_held():
            gunicorn = subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True)
        while gunicorn.poll() is None and not _answers(url):
            time.sleep(0.05)
        # gunicorn is the receiver, so the deliverer comes after it: events may wait that an earlier run has left.
        if demo and gunicorn.returncode is None:
            with _signals_held():
                # Its lines are JSON, so show only what goes wrong.
                deliverer = subprocess.Popen(
                    [sys.executable, "-m", "app.cli", "deliver"],
                    cwd=ROOT,
                    env=environ | {"LOG_LEVEL": "warning"},
                    start_new_session=True,
                )
        if gunicorn.returncode is None:
            _say(_how_to_try(environ, url) if demo else f"\nserving DATABASE_URL at {url} (Ctrl-C stops it)")
        while gunicorn.poll() is None and not (deliverer and deliverer.poll() is not None):
            with contextlib.suppress(subprocess.TimeoutExpired):
                gunicorn.wait(1)
            # If the terminal is closed, the kernel signals only the leader of the session. That may be make, which does
            # not pass the signal on.
            if terminal and not os.isatty(0):
                raise KeyboardInterrupt
        return 1
    finally:
        # The deliverer first: gunicorn is its receiver.
        for process in (deliverer, gunicorn):
            if process and process.poll() is None:
                process.terminate()
                process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=5).close()  # noqa: S310 - the URL is ours
    except OSError:
        return False
    return True


def _how_to_try(environ: dict[str, str], url: str) -> str:
    settings = from_environ(environ)
    now = int(time.time())
    expires = now + HOURS * 3600

    def token(user_id: str) -> str:
        return tokens.sign(user_id, settings, now, expires)

    psql = shlex.quote(str(postgres.bindir() / "psql"))
    return f"""
Open {url}/ in a browser to try it (Ctrl-C stops it).

The drawer of the page shows each call, and each event as it reaches a receiver.

The service answers at {url}/api/progress. Four learners,
with tokens that are valid until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC.
Paste them into another terminal, in this folder:

# full access
FULL={token(FULL)}
# free access
FREE={token(FREE)}
# bought the JavaScript course
BUYER={token(BUYER)}
# not enrolled
NONE={token(NONE)}

# and then, one after the other
# how far the learner is, and which lesson comes next
curl -H "Authorization: Bearer $FULL" {url}/api/progress/summary
curl -H "Authorization: Bearer $FULL" {url}/api/progress/next

# how far the learner is in each course
curl -H "Authorization: Bearer $FULL" {url}/api/progress/courses

# 409 lesson_locked: this lesson needs the first lesson of the JavaScript course
curl -X POST -H "Authorization: Bearer $FULL" {url}/api/progress/lessons/5acafcbb-20a0-45b9-b276-3d167e0de313

# mark that first lesson: the answer has the new counts of the module, of the course and overall
# the totals include the lessons that are now unlocked
curl -X POST -H "Authorization: Bearer $FULL" {url}/api/progress/lessons/97bf898a-36fc-47fc-b870-01fc0c7fe554

# take it back
curl -X DELETE -H "Authorization: Bearer $FULL" {url}/api/progress/lessons/97bf898a-36fc-47fc-b870-01fc0c7fe554

# only free lessons, and 403 not_enrolled
curl -H "Authorization: Bearer $FREE" {url}/api/progress/outline
curl -H "Authorization: Bearer $NONE" {url}/api/progress/summary

# the learner who bought the JavaScript course has this course, and 404 course_not_found for the other one
curl -H "Authorization: Bearer $BUYER" {url}/api/progress/courses/{JAVASCRIPT}
curl -H "Authorization: Bearer $BUYER" {url}/api/progress/courses/{ODIN}

# sell the last learner a subscription, with an event as Stripe sends it, and end it
make stripe-event FILE=app/demo/stripe/active.json
curl -H "Authorization: Bearer $NONE" {url}/api/progress/summary
make stripe-event FILE=app/demo/stripe/deleted.json

# sell the same learner one course, and refund it
make stripe-event FILE=app/demo/stripe/course_paid.json
curl -H "Authorization: Bearer $NONE" {url}/api/progress/summary
make stripe-event FILE=app/demo/stripe/course_refunded.json

# the session of a browser: the cookie that Auth.js v5 would set for the first learner
COOKIE='{"=".join(session_cookie(settings, FULL, now))}'
curl -H "Cookie: $COOKIE" {url}/api/progress/summary

# what a DBA sees
{psql} {shlex.quote(environ["DATABASE_URL"])} -v user_id={BUYER} -v course_id={JAVASCRIPT} -f sql/course.sql
{psql} {shlex.quote(environ["DATABASE_URL"])} -v user_id={FULL} -f sql/summary.sql
"""


if __name__ == "__main__":
    try:
        main()
    except PermissionError as error:
        sys.exit(f"{error.filename} belongs to another user: run as that user, or remove .local")
