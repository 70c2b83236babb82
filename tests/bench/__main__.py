"""`make bench`: compares the service with a bare Flask app, both under the same gunicorn on this machine.

It measures in rounds. In each round it measures both, one right after the other.
"""

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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psycopg

from tests.bench import plans, scale
from tests.world import SECRET, token

ROOT = Path(__file__).parent.parent.parent
CONNECTIONS = 8
ROUNDS = 5
WORKERS, THREADS = "2", "4"
RATE = 50  # requests a second of the open loop
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


def main() -> None:
    """Print the table of the calls, and the latencies of an open loop at a fixed rate."""
    size = os.environ.get("SIZE", "") or "small"
    seconds = float(os.environ.get("SECONDS", "") or 2)
    if size not in scale.SIZES:
        sys.exit(f"SIZE={size} is none of {', '.join(scale.SIZES)}")
    tool = "wrk" if shutil.which("wrk") else "Python's http.client"
    with ExitStack() as stack:
        url = stack.enter_context(scale.database(size))
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        postmaster = connection.execute(
            "select pid from pg_stat_activity where backend_type = 'checkpointer'"
        ).fetchone()
        assert postmaster
        postgres = int(Path(f"/proc/{postmaster[0]}/stat").read_text().rsplit(")", 1)[1].split()[1])
        version = connection.execute("select current_setting('server_version')").fetchone()
        assert version
        learner = plans.learner(connection, "light", 30)
        writers = _writers(connection)
        settings = {"DATABASE_URL": url, "AUTH_JWT_SECRET": SECRET, "WEB_CONCURRENCY": WORKERS, "WEB_THREADS": THREADS}
        ceiling = stack.enter_context(_gunicorn("tests.bench.ceiling:app", settings))
        prototype = stack.enter_context(_gunicorn("tests.bench.prototype:app", settings))
        open_ = stack.enter_context(_gunicorn("wsgi:app", settings | {"RATE_LIMIT_WRITES": ""}))
        limited = stack.enter_context(_gunicorn("wsgi:app", settings))
        print(
            f"{size}: {scale.SIZES[size].lessons} lessons, {scale.SIZES[size].users} learners; {ROUNDS} rounds of"
            f" {seconds:g} s, {CONNECTIONS} connections of {tool}, gunicorn {WORKERS} x {THREADS}\n"
            f"{_processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, PostgreSQL {version[0]}\n"
        )
        heads = ["call", "requests/s, median (min–max)", "of a bare Flask app", "P50 ms", "P95 ms", "P99 ms"]
        print(f"| {' | '.join([*heads, 'CPU ms Python', 'CPU ms PostgreSQL'])} |")
        print("|---|---|---|---|---|---|---|---|")
        ceilings = []
        for name, server, kind in _scenarios(open_, limited, prototype):
            bare, ours = [], []
            for _ in range(ROUNDS):
                bare.append(_run(ceiling, [("GET", "/", "-")], seconds, postgres))
                ours.append(_run(server, _requests(kind, learner, writers), seconds, postgres))
            ceilings += bare
            # Compare the two runs of one round only, because the machine may be slower in the next round.
            share = median(mine.rate / best.rate for mine, best in zip(ours, bare, strict=True))
            print(_row(name, ours, share), flush=True)
        print(_row("a bare Flask app", ceilings, 1) + "\n")
        print(f"at {RATE} requests a second, whether they are answered or not:")
        for name, kind in (("summary", "summary"), ("module", "module"), ("mark and unmark", "writes")):
            found = _load(limited, _requests(kind, learner, writers), 10, RATE)
            print(f"  {name}: P50 {found['p50']:.1f} ms, P95 {found['p95']:.1f} ms, P99 {found['p99']:.1f} ms")


def _row(name: str, runs: list[Run], share: float) -> str:
    rates = sorted(run.rate for run in runs)
    figures = " | ".join(f"{median(getattr(run, field) for run in runs):.2f}" for field in Run._fields[1:])
    return f"| {name} | {median(rates):.0f} ({rates[0]:.0f}–{rates[-1]:.0f}) | {share:.2f} | {figures} |"


def _scenarios(open_: Server, limited: Server, prototype: Server) -> list[tuple[str, Server, str]]:
    reads = ["summary", "module", "modules", "lessons", "outline", "next", "course", "courses", "access"]
    return [
        *((name, open_, name) for name in reads),
        ("summary, modules, outline, next in turn", open_, "dashboard"),
        ("mark and unmark in turn, no limit", open_, "writes"),
        ("mark and unmark in turn, with the limit", limited, "writes"),
        # The prototype has a session and the statement, and nothing else of the contract. So it shows how much of the
        # time these two need.
        ("summary of a bare prototype", prototype, "summary"),
    ]


def _requests(kind: str, learner: plans.Learner, writers: Iterator[str]) -> list[Request]:
    if kind == "writes":
        # Each learner makes ten writes, which is what the write limit allows, and is not used again.
        path = f"/api/progress/lessons/{learner.lesson_id}"
        tokens = [token(next(writers)) for _ in range(400)]
        return [(method, path, given) for given in tokens for method in ("POST", "DELETE") * 5]
    given = token(learner.user_id)
    paths = {
        "module": [f"modules/{learner.module_id}"],
        "course": [f"courses/{learner.course_id}"],
        "dashboard": ["summary", "modules", "outline", "next"],
    }
    return [("GET", f"/api/progress/{path}", given) for path in paths.get(kind, [kind])]


def _writers(connection: psycopg.Connection[Any]) -> Iterator[str]:
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
def _gunicorn(app: str, environ: dict[str, str]) -> Iterator[Server]:
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


def _run(server: Server, requests: list[Request], seconds: float, postgres: int) -> Run:
    before = cpu_seconds(server.pid), cpu_seconds(postgres)
    found = _load(server, requests, seconds)
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


def _load(server: Server, requests: list[Request], seconds: float, rate: float = 0) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(" ".join(request) + "\n" for request in requests))
        file.flush()
        if shutil.which("wrk") and not rate:
            script = str(Path(__file__).with_name("load.lua"))
            command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds:g}s", "-s", script]
            command += [f"http://{server.address}/", "--", file.name]
        else:
            command = [sys.executable, "-m", "tests.bench.client", file.name, server.address, str(seconds)]
            command += [str(CONNECTIONS), str(rate)]
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


if __name__ == "__main__":
    main()
