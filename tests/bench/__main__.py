"""`make bench`: compares the service with a bare Flask app, both under the same gunicorn on this machine.

It measures in rounds. In each round it measures both, one right after the other.
"""

import os
import shutil
import sys
from contextlib import ExitStack
from statistics import median

import psycopg

from tests.bench import plans, scale
from tests.bench.service import CONNECTIONS, Run, Server, gunicorn, load, machine, postmaster, requests_of, run, writers
from tests.world import SECRET

ROUNDS = 5
WORKERS, THREADS = "2", "4"
RATE = 50  # requests a second of the open loop


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
        postgres = postmaster(connection)
        learner = plans.learner(connection, "light", 30)
        learners = writers(connection)
        settings = {"DATABASE_URL": url, "AUTH_JWT_SECRET": SECRET, "WEB_CONCURRENCY": WORKERS, "WEB_THREADS": THREADS}
        ceiling = stack.enter_context(gunicorn("tests.bench.ceiling:app", settings))
        prototype = stack.enter_context(gunicorn("tests.bench.prototype:app", settings))
        open_ = stack.enter_context(gunicorn("wsgi:app", settings | {"RATE_LIMIT_WRITES": ""}))
        limited = stack.enter_context(gunicorn("wsgi:app", settings))
        print(
            f"{size}: {scale.SIZES[size].lessons} lessons, {scale.SIZES[size].users} learners; {ROUNDS} rounds of"
            f" {seconds:g} s, {CONNECTIONS} connections of {tool}, gunicorn {WORKERS} x {THREADS}\n"
            f"{machine(connection)}\n"
        )
        heads = ["call", "requests/s, median (min–max)", "of a bare Flask app", "P50 ms", "P95 ms", "P99 ms"]
        heads += ["CPU ms Python", "CPU ms PostgreSQL", "requests/s a core, Python", "requests/s a core, PostgreSQL"]
        print(f"| {' | '.join(heads)} |")
        print("|---" * len(heads) + "|")
        ceilings = []
        for name, server, kind in _scenarios(open_, limited, prototype):
            bare, ours = [], []
            for _ in range(ROUNDS):
                bare.append(run(ceiling, [("GET", "/", "-")], seconds, postgres))
                ours.append(run(server, requests_of(kind, learner, learners), seconds, postgres))
            ceilings += bare
            # Compare the two runs of one round only, because the machine may be slower in the next round.
            share = median(mine.rate / best.rate for mine, best in zip(ours, bare, strict=True))
            print(_row(name, ours, share), flush=True)
        print(_row("a bare Flask app", ceilings, 1) + "\n")
        print(f"at {RATE} requests a second, whether they are answered or not:")
        for name, kind in (("summary", "summary"), ("module", "module"), ("mark and unmark", "writes")):
            found = load(limited, requests_of(kind, learner, learners), 10, RATE)
            print(f"  {name}: P50 {found['p50']:.1f} ms, P95 {found['p95']:.1f} ms, P99 {found['p99']:.1f} ms")


def _row(name: str, runs: list[Run], share: float) -> str:
    rates = sorted(run.rate for run in runs)
    p50, p95, p99, python, postgres = (median(getattr(run, field) for run in runs) for field in Run._fields[1:])
    figures = [f"{figure:.2f}" for figure in (share, p50, p95, p99, python, postgres)]
    # What a core of the web machine, or of the database's, does in a second if it does nothing else.
    figures += [f"{1000 / milliseconds:.0f}" if milliseconds >= 0.02 else "–" for milliseconds in (python, postgres)]
    return f"| {name} | {median(rates):.0f} ({rates[0]:.0f}–{rates[-1]:.0f}) | {' | '.join(figures)} |"


def _scenarios(open_: Server, limited: Server, prototype: Server) -> list[tuple[str, Server, str]]:
    reads = ["summary", "module", "modules", "lessons", "outline", "outline?include=completions,courses", "next"]
    reads += ["course", "courses", "access"]
    return [
        *((name, open_, name) for name in reads),
        ("summary, modules, outline, next in turn", open_, "dashboard"),
        ("mark and unmark in turn, no limit", open_, "writes"),
        ("mark and unmark in turn, with the limit", limited, "writes"),
        # The prototype has a session and the statement, and nothing else of the contract. So it shows how much of the
        # time these two need.
        ("summary of a bare prototype", prototype, "summary"),
    ]


if __name__ == "__main__":
    main()
