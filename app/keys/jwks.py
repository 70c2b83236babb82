"""The keys of another identity provider: a JSON Web Key Set (RFC 7517), cached and kept fresh in the background."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from app.settings import Key, public_key

MAX_KEYS = 100
MAX_USE_SECONDS = 24 * 3600.0  # how long a set is used after it was fetched
FETCH_PAUSE_SECONDS = 30.0  # between two fetches that tokens cause
FETCH_WAIT_SECONDS = 0.5  # how long a token waits for a fetch that is running already
# How long a set is fresh: what its Cache-Control says, but within these limits. The default is for a set without one.
MIN_FRESH_SECONDS, DEFAULT_FRESH_SECONDS, MAX_FRESH_SECONDS = 60.0, 600.0, 3600.0

log = logging.getLogger(__name__)


class NoKeySetError(Exception):
    """No fetch of the set has succeeded in the last 24 hours, so nobody can say whether a token is valid."""


class KeySet:
    """The key set at `url`, without the keys of other algorithms than `algorithms`. `clock` returns seconds."""

    def __init__(self, url: str, algorithms: tuple[str, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.algorithms = algorithms
        self.clock = clock
        self._keys: tuple[tuple[str | None, Key], ...] = ()
        self._fetched: float | None = None  # the clock at the last successful fetch
        self._asked: float | None = None  # the clock at the last fetch that a token caused
        # One fetch at a time. Otherwise a slow fetch could store its older set over the newer set of a faster one.
        self._fetching = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)

    def start(self) -> None:
        """Fetch now, and then from time to time in the background.

        A worker calls this after its fork, because a thread does not survive a fork.
        """
        self._thread.start()

    def close(self) -> None:
        """Stop fetching."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def find(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that a token with this `kid` may be signed with, none if there is no such key.

        An unknown kid causes a fetch at once, but at most one in 30 seconds, because a kid may be forged. Raises
        NoKeySetError while there is no set.
        """
        found = self._matching(kid)
        if not found or self._is_stale():
            self._fetch_for(kid)
            found = self._matching(kid)
        if self._is_stale():
            raise NoKeySetError
        return found

    def _is_stale(self) -> bool:
        return self._fetched is None or self.clock() - self._fetched > MAX_USE_SECONDS

    def refresh(self) -> float | None:
        """Fetch the set. Return for how many seconds it is fresh.

        If the fetch fails or gives no usable key, keep the earlier set and return None.
        """
        with self._fetching:
            return self._fetch()

    def _fetch(self) -> float | None:
        # This import costs 30 ms and 7 MB. Here, a service without a key set does not pay for it.
        from app.keys.download import download
        from app.outgoing import RequestError

        try:
            body, headers = download(self.url)
        except RequestError as error:
            log.warning("AUTH_JWKS_URL: the key set cannot be fetched: %s", error)
            return None
        try:
            keys = tuple(_usable_keys(json.loads(body), self.algorithms))
        except (ValueError, TypeError, KeyError, RecursionError):
            log.warning("AUTH_JWKS_URL: the document is not a key set")
            return None
        if not keys:
            log.warning("AUTH_JWKS_URL: the key set has no usable key")
            return None
        self._keys, self._fetched = keys, self.clock()
        return _fresh_for(headers)

    def _matching(self, kid: str | None) -> tuple[Key, ...]:
        return tuple(key for name, key in self._keys if kid is None or name == kid)

    def _fetch_for(self, kid: str | None) -> None:
        # Wait for a fetch that is running already, because it may bring the key. Do not wait long: if the provider
        # hangs, all threads would wait.
        if not self._fetching.acquire(timeout=FETCH_WAIT_SECONDS):
            return
        try:
            if self._matching(kid) and not self._is_stale():
                return  # the other fetch has brought the key
            now = self.clock()
            if self._asked is None or now - self._asked >= FETCH_PAUSE_SECONDS:
                self._asked = now
                self._fetch()
        finally:
            self._fetching.release()

    def _keep_fresh(self) -> None:
        wait = 1.0
        while not self._closing.is_set():
            fresh_for = self.refresh()
            if fresh_for:
                wait = 1.0
                self._closing.wait(fresh_for * 0.8)  # before the set expires
            else:
                self._closing.wait(wait)
                wait = min(2 * wait, 30.0)


def _fresh_for(headers: Mapping[str, str]) -> float:
    age = re.search(r"max-age=([0-9]{1,9})", headers.get("Cache-Control", ""))
    return min(max(float(age[1]), MIN_FRESH_SECONDS), MAX_FRESH_SECONDS) if age else DEFAULT_FRESH_SECONDS


def _usable_keys(document: Any, algorithms: tuple[str, ...]) -> list[tuple[str | None, Key]]:
    """Return the keys of a set that verify signatures, each with its kid, without symmetric and broken keys."""
    usable = []
    for entry in document["keys"][:MAX_KEYS]:
        try:
            if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
                continue
            # The type of the key decides its one algorithm. An `alg` that says otherwise excludes the key.
            key = public_key(jwt.PyJWK(entry).key)
            if key.algorithm in algorithms and entry.get("alg", key.algorithm) == key.algorithm:
                usable.append((entry.get("kid"), key))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
    return usable
