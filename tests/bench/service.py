"""What the benchmarks share: gunicorn as it runs in production, requests, a load generator, and the CPU time used."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.bench import plans
from tests.world import token

ROOT = Path(__file__).parent.parent.parent
CONNECTIONS = 8
TICK = os.sysconf("SC_CLK_TCK")

Request = tuple[str, str, str]  # method, path, token


class Server(NamedTuple):
    """A running gunicorn."""

    address: str
    pid: int


class Run(NamedTuple):
    """The figures of one round: requests in a second, milliseconds of latency, milliseconds of CPU for a request."""

    rate: float
    p50: float
    p95: float
    p99: float
    python: float
    postgres: float


def postmaster(connection: psycopg.Connection[Any]) -> int:
    """Return the process id of the server that a connection goes to."""
    row = connection.execute("select pid from pg_stat_activity where backend_type = 'checkpointer'").fetchone()
    assert row
    return int(Path(f"/proc/{row[0]}/stat").read_text().rsplit(")", 1)[1].split()[1])


def machine(connection: psycopg.Connection[Any]) -> str:
    """Return the processor, its cores, and the versions of Python and PostgreSQL."""
    version = connection.execute("select current_setting('server_version')").fetchone()
    assert version
    return f"{_processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, PostgreSQL {version[0]}"


def requests_of(kind: str, learner: plans.Learner, learners: Iterator[str]) -> list[Request]:
    """Return the requests of a kind: `writes`, `dashboard`, or a read. Writes are by `learners`, each used once."""
    if kind == "writes":
        # Each learner makes ten writes, which is what the write limit allows, and is not used again.
        path = f"/api/progress/lessons/{learner.lesson_id}"
        tokens = [token(next(learners)) for _ in range(400)]
        return [(method, path, given) for given in tokens for method in ("POST", "DELETE") * 5]
    given = token(learner.user_id)
    paths = {
        "module": [f"modules/{learner.module_id}"],
        "course": [f"courses/{learner.course_id}"],
        "dashboard": ["summary", "modules", "outline", "next"],
    }
    return [("GET", f"/api/progress/{path}", given) for path in paths.get(kind, [kind])]


def writers(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """Add learners who have completed nothing. Return an iterator, so that each of them is used once."""
    query = (
        "with added as (insert into users (id) select gen_random_uuid() from generate_series(1, 20000) returning id)"
        " insert into subscriptions (user_id, status, current_period_end) select id, 'active', '2100-01-01' from added"
        " returning user_id::text"
    )
    ids = [user_id for (user_id,) in connection.execute(query).fetchall()]
    connection.execute("analyze users, subscriptions")
    return iter(ids)


@contextmanager
def gunicorn(app: str, environ: dict[str, str]) -> Iterator[Server]:
    """Start gunicorn with the service's settings. Yield it when it answers."""
    from tests.conftest import free_port

    port = str(free_port())
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--log-level", "warning", app]
    with subprocess.Popen(
        command, cwd=ROOT, env={"PATH": os.environ["PATH"], "PORT": port} | environ, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{'healthz' if app == 'wsgi:app' else ''}").close()
                    break
                except OSError:
                    assert process.poll() is None, "gunicorn did not start"
                    time.sleep(0.05)
            yield Server(f"127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


def run(server: Server, requests: list[Request], seconds: float, postgres: int) -> Run:
    """Send requests, each when the one before it is answered. `postgres` is the process id of PostgreSQL."""
    before = cpu_seconds(server.pid), cpu_seconds(postgres)
    found = load(server, requests, seconds)
    python, database = (
        after - then for after, then in zip((cpu_seconds(server.pid), cpu_seconds(postgres)), before, strict=True)
    )
    count = found["requests"]
    return Run(
        count / found["seconds"],
        found["p50"],
        found["p95"],
        found["p99"],
        python * 1000 / count,
        database * 1000 / count,
    )


def load(
    server: Server, requests: list[Request], seconds: float, rate: float = 0, connections: int = CONNECTIONS
) -> dict[str, float]:
    """Send requests: `rate` a second, answered or not, or with 0 each when the one before it is answered."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(" ".join(request) + "\n" for request in requests))
        file.flush()
        if shutil.which("wrk") and not rate:
            script = str(Path(__file__).with_name("load.lua"))
            command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:g}s", "-s", script]
            command += [f"http://{server.address}/", "--", file.name]
        else:
            command = [sys.executable, "-m", "tests.bench.client", file.name, server.address, str(seconds)]
            command += [str(connections), str(rate)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert not found["failed"], f"{found['failed']} of {found['requests']} requests failed"
    return found


def cpu_seconds(parent: int) -> float:
    """Return the seconds of CPU that a process and its children have used. Children that have ended count too."""
    pids = [parent, *map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())]
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(int(field) for field in fields[11 : 15 if pid == parent else 13])
    return ticks / TICK


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
