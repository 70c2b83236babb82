"""How gunicorn runs the service: read by `gunicorn -c gunicorn.conf.py wsgi:app`, and again at each reload (HUP)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

# What was found fit stays with the process, since this file begins anew at each reload. A module of the service would
# be inherited by the workers, which would go on with old code.
process: Any = sys


def check(*options: str) -> bool:
    """Whether the service may start; then gunicorn's settings are kept. If not, the check itself has said why."""
    command = [sys.executable, "-m", "app.start", *options]
    done = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=False)
    # Not by the exit status: gunicorn collects that of any child, and Python then takes it for 0.
    if done.stdout:
        process.progress_settings = json.loads(done.stdout)
    return bool(done.stdout)


first = not hasattr(process, "progress_settings")
if first and not check("--judge"):
    sys.exit(1)
settings = dict(process.progress_settings)
metrics = settings.pop("metrics")
globals().update(settings)

# A sync worker answers nobody else while an idle keep-alive connection is open.
worker_class = "gthread"
# Seconds. Longer than proxies keep an idle connection (nginx and most balancers 60), so that never the service but the
# proxy ends one: a request that meets a connection as it closes fails. An idle connection costs no thread, and a worker
# that stops ends it after two seconds.
keepalive = 75
# A session cookie in three chunks is longer than the default of 8190 bytes.
limit_request_field_size = 65536
# Trust no proxy with SCRIPT_NAME, which would cut the beginning off a path: most proxies pass a client's header of this
# name on, and /api/progress/metrics would become /metrics.
forwarder_headers = ""
# No socket for gunicorn's own control program beside the service.
control_socket_disable = True


def when_ready(server: Any) -> None:
    """Check before each reload, and leave the workers alone where the service could not start.

    Not while gunicorn reloads: until that is done it hears no signal, replaces no worker, and cannot be stopped. So a
    thread checks, and passes the signal on to gunicorn afterwards.
    """
    told: SimpleQueue[int] = SimpleQueue()
    reload: Any = signal.getsignal(signal.SIGHUP)

    def check_and_reload() -> None:
        while True:
            number = told.get()
            try:
                fit = check()
            except OSError as error:  # no Python, no memory
                os.write(2, f"the check cannot be run: {error}\n".encode())
                fit = False
            if fit:
                reload(number, None)
            else:
                # Not by sys.stderr: a worker that is forked meanwhile would inherit its lock as taken.
                os.write(2, b"not reloaded: the workers go on as they were\n")

    threading.Thread(target=check_and_reload, daemon=True).start()
    # A signal's handler may interrupt itself; of what there is to wake a thread with, only this queue allows it.
    signal.signal(signal.SIGHUP, lambda number, _: told.put(number))


if metrics:
    if first:
        # Where the workers count together. Their library looks for it when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="progress-metrics-")
    from prometheus_client import multiprocess

    def child_exit(server: Any, worker: Any) -> None:
        """Take the gauges of a worker that has ended out of the sums; its counts stay."""
        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    def on_exit(server: Any) -> None:
        """Take the files away with which the workers counted."""
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
