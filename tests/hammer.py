"""Clients that write again and again, and checks that the write limit let through as many writes as it must."""

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
    """Unmark a lesson that is not marked. This write succeeds each time, unless the limit refuses it."""
    request = urllib.request.Request(
        f"{url}/api/progress/lessons/{uuid4(0x11)}", method="DELETE", headers=bearer(user_id)
    )
    started = time.time()
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            json.load(response)
            return Write(started, time.time(), response.status, response.headers["Retry-After"])
    except urllib.error.HTTPError as error:
        with error:
            json.load(error)
            return Write(started, time.time(), error.code, error.headers["Retry-After"])


def _keep_writing(url: str, seconds: float) -> list[Write]:
    writes = [write(url)]  # the first write, which makes the service connect, may take long
    until = time.time() + seconds
    while time.time() < until:
        writes.append(write(url))
        # With this pause there are still forty attempts for each write that the limit lets through. More attempts would
        # only slow down the tests that run at the same time.
        time.sleep(0.05)
    return writes


def hammer(urls: list[str], seconds: float) -> list[Write]:
    """Let eight clients, spread over the URLs, write for one learner for this long. Return their writes, in order."""
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(_keep_writing, [urls[number % len(urls)] for number in range(8)], [seconds] * 8)
    return sorted(write for part in parts for write in part)


def assert_retry_after(url: str, window: int, first: Write, refused: Write) -> None:
    """Assert that the Retry-After of a refused write is exact to the second, in the window that `first` began."""
    assert refused.status == 429
    seconds = int(refused.retry_after or 0)
    # The service counted each write at some time between its start and its end. So the time between both writes is
    # only known to be between these limits.
    least, most = refused.started - first.ended, refused.ended - first.started
    assert math.ceil(window - most) <= seconds <= math.ceil(window - least)
    time.sleep(max(0, refused.ended + seconds - 1 - time.time()))
    early = write(url)
    assert early.status == 429 or early.ended >= first.started + window
    time.sleep(max(0, refused.ended + seconds - time.time()))
    assert write(url).status == 200


def assert_exact(writes: list[Write], amount: int, window: float) -> None:
    """Assert that the limit let through `amount` writes in any `window` seconds, neither more nor fewer."""
    assert {write.status for write in writes} == {200, 429}
    accepted = [write for write in writes if write.status == 200]
    for first in accepted:
        # These writes began and ended within one window, so the service counted them within it.
        within = [
            write for write in accepted if write.started >= first.started and write.ended < first.started + window
        ]
        assert len(within) <= amount
    windows = int((writes[-1].started - accepted[0].ended) / window)
    assert windows >= 2
    assert len(accepted) >= amount * windows
    assert all(int(write.retry_after or 0) in range(1, int(window) + 1) for write in writes if write.status == 429)
