"""How gunicorn runs the service: read by `gunicorn -c gunicorn.conf.py wsgi:app`, and again at each reload (HUP)."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

start = subprocess.run(
    [sys.executable, "-m", "app.start"], cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=False
)
# What was found fit stays with the process, for this file begins anew at each reload. Not in a module of the service's,
# which the workers would inherit, and go on with old code.
process: Any = sys
refused = start.returncode != 0
first = not hasattr(process, "progress_settings")
if refused and first:
    sys.exit(start.returncode)  # it has said why, in one line
if not refused:
    process.progress_settings = json.loads(start.stdout)
settings = dict(process.progress_settings)
metrics = settings.pop("metrics")
globals().update(settings)

# A sync worker answers nobody else while an idle keep-alive connection is open.
worker_class = "gthread"
# A session cookie in three chunks is longer than the default of 8190 bytes.
limit_request_field_size = 65536
# No socket for gunicorn's own control program beside the service.
control_socket_disable = True


def on_reload(server: Any) -> None:
    """Refuse a reload that could not be a start: with no new workers none of the old is asked to go."""
    if refused:
        print("not reloaded: the workers go on as they were", file=sys.stderr, flush=True)
        server.cfg.set("workers", 0)


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
