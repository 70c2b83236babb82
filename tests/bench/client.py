"""A load generator, which runs as a process of its own.

It makes a closed loop where the program wrk is missing, and an open loop at a fixed rate.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Send the requests of a file: `client FILE ADDRESS SECONDS CONNECTIONS RATE`. RATE 0 means a closed loop."""
    file, address = sys.argv[1:3]
    seconds, connections, rate = float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    requests = [line.split() for line in Path(file).read_text().splitlines()]
    latencies: list[float] = []
    failed: list[int] = []
    turn = iter(range(10**9))
    lock = threading.Lock()
    started = time.perf_counter()

    def send() -> None:
        connection = http.client.HTTPConnection(address, timeout=30)
        while True:
            with lock:
                number = next(turn)
            # In an open loop each request has its time, even if the request before it was not answered yet. Its latency
            # counts from that time.
            due = started + number / rate if rate else time.perf_counter()
            if due - started > seconds:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            method, path, token = requests[number % len(requests)]
            connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            response.read()
            latencies.append(time.perf_counter() - due)
            if response.status != 200:
                failed.append(response.status)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    at = {f"p{share}": latencies[len(latencies) * share // 100] * 1000 for share in (50, 95, 99)}
    seconds = time.perf_counter() - started
    json.dump({"requests": len(latencies), "seconds": seconds, "failed": len(failed)} | at, sys.stdout)


if __name__ == "__main__":
    main()
