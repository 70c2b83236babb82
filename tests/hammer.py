"""Clients that write again and again, and what may be said of the answers they got."""

import json
import math
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tests.world import LEARNER, bearer, uuid4


class Write(NamedTuple):
    started: float
    ended: float
    status: int
    retry_after: str | None


def write(url: str, user_id: str = LEARNER) -> Write:
    """Unmark a lesson that is not marked, which succeeds as often as one likes."""
    request = urllib.request.Request(
        f"{url}/api/progress/lessons/{uuid4(0x11)}", method="DELETE", headers=bearer(user_id)
    )
    started = time.time()
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            json.load(response)
            return Write(started, time.time(), response.status, response.headers["Retry-After"])
    except urllib.error.HTTPError as error:
        with error:
            json.load(error)
            return Write(started, time.time(), error.code, error.headers["Retry-After"])


def _keep_writing(url: str, seconds: float) -> list[Write]:
    writes = []
    until = time.time() + seconds
    while time.time() < until:
        writes.append(write(url))
        # A hundred tries for each that is let through. More would only take time from the tests beside this one.
        time.sleep(0.02)
    return writes


def hammer(urls: list[str], seconds: float) -> list[Write]:
    """Eight clients, spread over the URLs, that write for one learner until the time is over."""
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(_keep_writing, [urls[number % len(urls)] for number in range(8)], [seconds] * 8)
    return sorted(write for part in parts for write in part)


def assert_retry_after(url: str, window: int, first: Write, refused: Write) -> None:
    """Hold the Retry-After of a write that was refused against the window that `first` began: to the second."""
    assert refused.status == 429
    seconds = int(refused.retry_after or 0)
    # Nobody here can tell when exactly the service looked at its clock.
    least, most = refused.started - first.ended, refused.ended - first.started
    assert math.ceil(window - most) <= seconds <= math.ceil(window - least)
    time.sleep(max(0, refused.ended + seconds - 1 - time.time()))
    early = write(url)
    assert early.status == 429 or early.ended >= first.started + window
    time.sleep(max(0, refused.ended + seconds - time.time()))
    assert write(url).status == 200


def assert_exact(writes: list[Write], amount: int, window: float) -> None:
    """Hold what was let through against `amount` in any `window` seconds: not one more, and no fewer."""
    assert {write.status for write in writes} == {200, 429}
    accepted = [write for write in writes if write.status == 200]
    for first in accepted:
        # Began and ended within one window: they were counted within it, whenever exactly that was.
        within = [
            write for write in accepted if write.started >= first.started and write.ended < first.started + window
        ]
        assert len(within) <= amount
    windows = int((writes[-1].started - accepted[0].ended) / window)
    assert windows >= 2
    assert len(accepted) >= amount * windows
    assert all(int(write.retry_after or 0) in range(1, int(window) + 1) for write in writes if write.status == 429)
