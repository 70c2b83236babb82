"""How gunicorn runs the service: read by `gunicorn -c gunicorn.conf.py wsgi:app`, and again at each reload (HUP)."""

import gc
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

# gunicorn runs this file again at each reload. So the settings that passed the check are kept in the module sys. A
# module of the service must not be imported here: the workers would inherit it, and would go on with old code.
process: Any = sys


def check(*options: str) -> bool:
    """Return whether the service may start. If so, keep gunicorn's settings. If not, the check has said why."""
    command = [sys.executable, "-m", "app.start", *options]
    done = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=False)
    # Do not use the exit status: gunicorn collects the status of every child, and `run` then returns 0.
    if done.stdout:
        process.progress_settings = json.loads(done.stdout)
    return bool(done.stdout)


first = not hasattr(process, "progress_settings")
if first and not check("--apply-terms"):
    sys.exit(1)
settings = dict(process.progress_settings)
metrics = settings.pop("metrics")
globals().update(settings)

# How many connections each worker holds: an int for each worker, in memory that this process shares with its workers.
# A reload makes it anew, so the workers of before it are not counted.
connections = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("i")
NOT_ACCEPTING = 2**31 - 1  # more than any worker holds, so that no worker waits for this one
for place in range(len(connections)):
    connections[place] = NOT_ACCEPTING
taken: set[int] = set()  # the places of the workers that run
PAUSE_SECONDS = 0.0005
MAX_PAUSES = 20


class EvenThreadWorker(ThreadWorker):  # type: ignore[misc]
    """A gthread worker that leaves a new connection to a worker that holds fewer.

    gunicorn's own workers accept as many connections as they get, and a kept-alive connection stays with its worker. So
    one worker often has 15 of 16 connections, and another core has nothing to do. gunicorn does not document `accept`,
    `notify`, `nr_conns` and `_accepting`. So its version is pinned, and a test counts the connections of the workers.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # gunicorn makes the object before it forks, so two workers never take the same place.
        self.place = next(place for place in range(len(connections)) if place not in taken)
        taken.add(self.place)
        self.pauses = 0
        super().__init__(*args, **kwargs)

    def leave(self) -> None:
        """Leave the count: this worker has ended. gunicorn's master calls this through child_exit."""
        connections[self.place] = NOT_ACCEPTING
        taken.discard(self.place)

    def notify(self) -> None:
        """Say how many connections this worker holds. gunicorn calls this each time that the worker begins to wait."""
        connections[self.place] = self.nr_conns if self._accepting else NOT_ACCEPTING
        super().notify()

    def accept(self, listener: Any) -> None:
        """Accept a connection, or leave it for some milliseconds to a worker that holds fewer."""
        # That worker may hang. So the pauses have an end. The answers of this worker go on between them.
        if self.pauses < MAX_PAUSES and min(connections) < self.nr_conns:
            self.pauses += 1
            time.sleep(PAUSE_SECONDS)
            return
        self.pauses = 0
        super().accept(listener)


# A sync worker closes each connection after one answer. It serves nobody else while a connection is open that sends
# nothing.
worker_class = EvenThreadWorker
# In seconds. Proxies keep an idle connection for less time (nginx and most load balancers for 60 seconds). So the proxy
# closes it, and never the service: a request that comes while the service closes its connection would fail. An idle
# connection occupies no thread. A worker that stops closes its idle connections after two seconds.
keepalive = 75
# A session cookie in three chunks is longer than the default of 8190 bytes.
limit_request_field_size = 65536
# Trust no proxy with SCRIPT_NAME. Most proxies pass on a client's header of this name, and it would cut off the
# beginning of a path: /api/progress/metrics would become /metrics.
forwarder_headers = ""
# Open no socket for gunicorn's control program.
control_socket_disable = True


def post_fork(server: Any, worker: Any) -> None:
    """Keep Python's garbage collector off while the worker imports the service, which makes 100,000 objects that stay.

    To look through them again and again would take a seventh of the time of the start.
    """
    gc.disable()


def post_worker_init(worker: Any) -> None:
    """Turn the garbage collector on again. It never looks at what the imports have made."""
    gc.freeze()
    gc.enable()


def when_ready(server: Any) -> None:
    """Run the check before each reload. If the service could not start, keep the workers as they are.

    A thread runs the check, and then passes the signal on to gunicorn. If gunicorn's own reload ran the check,
    gunicorn would meanwhile handle no signal and replace no worker, and could not be stopped.
    """
    signals: SimpleQueue[int] = SimpleQueue()
    reload: Any = signal.getsignal(signal.SIGHUP)

    def check_and_reload() -> None:
        while True:
            number = signals.get()
            try:
                fit = check()
            except OSError as error:  # for instance, there is not enough memory
                os.write(2, f"the check cannot be run: {error}\n".encode())
                fit = False
            if fit:
                reload(number, None)
            else:
                # Do not use sys.stderr: a worker that is forked at this moment would inherit its lock, and would hang.
                os.write(2, b"not reloaded: the workers go on as before\n")

    threading.Thread(target=check_and_reload, daemon=True).start()
    # A signal may interrupt its own handler. Of Python's means to wake a thread, only SimpleQueue.put() allows that.
    signal.signal(signal.SIGHUP, lambda number, _: signals.put(number))


def child_exit(server: Any, worker: Any) -> None:
    """Free the place of a worker that has ended. Remove its gauges from the sums of the metrics. Its counters stay."""
    # After a reload, the worker was counted by the module of before. And an operator may choose another class.
    if hasattr(worker, "leave"):
        worker.leave()
    if metrics:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


if metrics:
    if first:
        # The folder in which all workers count. Prometheus' library reads this variable when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="progress-metrics-")

    def on_exit(server: Any) -> None:
        """Remove the folder in which the workers counted."""
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
