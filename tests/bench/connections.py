"""`make bench-connections`: how connections spread over gunicorn's workers, and what many connections cost a caller."""

import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psycopg

from tests.bench import plans, scale
from tests.bench.service import Request, Server, gunicorn, load, machine, requests_of
from tests.world import SECRET

ESTABLISHED = "01"
SPREADS = ((16, 2), (64, 4))  # connections, workers
SPREAD_RUNS = 10
FEW, MANY = 8, 200
ROUNDS = 5
SECONDS = 4


def connections_by_worker(master: int, url: str) -> dict[int, int]:
    """Return how many connections to this URL each worker holds, by the worker's process id. `master` is gunicorn's."""
    port = urlsplit(url).port
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    accepted = {
        f"socket:[{fields[9]}]"
        for fields in table
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == ESTABLISHED
    }
    held = {}
    for worker in Path(f"/proc/{master}/task/{master}/children").read_text().split():
        held[int(worker)] = 0
        for descriptor in Path(f"/proc/{worker}/fd").iterdir():
            with suppress(FileNotFoundError):  # the worker has closed it meanwhile
                held[int(worker)] += str(descriptor.readlink()) in accepted
    return held


def main() -> None:
    """Print both tables."""
    with ExitStack() as stack:
        url = stack.enter_context(scale.database("small"))
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        print(machine(connection) + "\n")
        requests = requests_of("summary", plans.learner(connection, "light", 30), iter(()))
        settings = {"DATABASE_URL": url, "AUTH_JWT_SECRET": SECRET}
        _print_spreads(settings, requests)
        print()
        server = stack.enter_context(gunicorn("wsgi:app", settings | {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}))
        _print_many(server, requests)


def _print_spreads(settings: dict[str, str], requests: list[Request]) -> None:
    print(
        "| connections, workers | worker class | the most on one worker, in each run | requests/s, median (min–max) |"
    )
    print("|---|---|---|---|")
    for connections, workers in SPREADS:
        environ = settings | {"WEB_CONCURRENCY": str(workers), "WEB_THREADS": "4"}
        with (
            gunicorn("wsgi:app", environ | {"GUNICORN_CMD_ARGS": "--worker-class gthread"}) as plain,
            gunicorn("wsgi:app", environ) as even,
        ):
            most: dict[str, list[int]] = {"gthread": [], "of this service": []}
            rates: dict[str, list[float]] = {"gthread": [], "of this service": []}
            # The first run only waits until all workers have started.
            for run in range(SPREAD_RUNS + 1):
                for name, server in (("gthread", plain), ("of this service", even)):
                    held, rate = _spread(server, requests, connections)
                    if run:
                        most[name].append(max(held))
                        rates[name].append(rate)
        for name, counts in most.items():
            ordered = sorted(rates[name])
            figures = f"{median(ordered):.0f} ({ordered[0]:.0f}–{ordered[-1]:.0f})"
            print(f"| {connections}, {workers} | {name} | {', '.join(map(str, counts))} | {figures} |", flush=True)


def _spread(server: Server, requests: list[Request], connections: int) -> tuple[list[int], float]:
    """Load a server for two seconds. Return the connections of each worker in the middle, and the requests a second."""
    found: list[dict[str, float]] = []
    client = threading.Thread(target=lambda: found.append(load(server, requests, 2, connections=connections)))
    client.start()
    time.sleep(1)
    held = connections_by_worker(server.pid, f"http://{server.address}")
    client.join()
    return list(held.values()), found[0]["requests"] / found[0]["seconds"]


def _print_many(server: Server, requests: list[Request]) -> None:
    def at(rate: float, connections: int) -> dict[str, float]:
        found = load(server, requests, SECONDS, rate, connections)
        return found | {"rate": found["requests"] / found["seconds"]}

    # A little less than the service answers to wrk. It cannot answer that to a client in Python on the same cores.
    beyond = load(server, requests, 1)["requests"] * 0.9
    capacity = max(at(beyond, connections)["rate"] for connections in (FEW, MANY) for _ in range(2))
    print(
        f"The service answers {capacity:.0f} summaries a second to this client, which has a part of the same cores.\n"
    )
    print("| rate, of what it can answer | connections | answered/s | P50 ms | P95 ms | P99 ms |")
    print("|---|---|---|---|---|---|")
    ratios: list[float] = []
    for share, counts in ((0.7, (FEW, MANY)), (1.5, (MANY,))):
        runs = [[at(capacity * share, connections) for connections in counts] for _ in range(ROUNDS)]
        for place, connections in enumerate(counts):
            figures = (f"{median(run[place][name] for run in runs):.0f}" for name in ("rate", "p50", "p95", "p99"))
            print(f"| {share:.0%} | {connections} | {' | '.join(figures)} |", flush=True)
        ratios = ratios or [many["p95"] / few["p95"] for few, many in runs]
    print(
        f"\nP95 at 70%: {MANY} connections have {median(ratios):.1f} times that of {FEW} (median of {ROUNDS} rounds)."
    )


if __name__ == "__main__":
    main()
