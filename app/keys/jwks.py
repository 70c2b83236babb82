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

MOST = 100  # keys
STALE = 24 * 3600.0  # seconds that a set is served after its last successful fetch
ASK_AGAIN = 30.0  # seconds between two fetches that tokens cause
PATIENCE = 0.5  # seconds that a token waits for a fetch that something else caused
SHORTEST, USUAL, LONGEST = 60.0, 600.0, 3600.0  # seconds that a set is fresh, by its Cache-Control

log = logging.getLogger(__name__)


class NotKnownError(Exception):
    """No set was ever fetched, or none in the last 24 hours: a token can be judged neither good nor bad."""


class KeySet:
    """The key set at `url`; keys of `algorithms` alone. `clock` counts seconds."""

    def __init__(self, url: str, algorithms: tuple[str, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.algorithms = algorithms
        self.clock = clock
        self._keys: tuple[tuple[str | None, Key], ...] = ()
        self._fetched: float | None = None
        self._asked: float | None = None
        # One fetch at a time. Otherwise a slow fetch could store its older set over the newer set of a faster one.
        self._fetching = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)

    def start(self) -> None:
        """Fetch now and from time to time in the background; only after a worker's fork, which no thread survives."""
        self._thread.start()

    def close(self) -> None:
        """Stop fetching."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def find(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that a token with this `kid` may be signed with, none if there is no such key.

        Of an unknown kid the provider is asked at once, at most every 30 seconds: forged ones cause no storm.
        Raises NotKnownError while there is no set to look into.
        """
        found = self._matching(kid)
        if not found or self._is_stale():
            self._ask(kid)
            found = self._matching(kid)
        if self._is_stale():
            raise NotKnownError
        return found

    def _is_stale(self) -> bool:
        return self._fetched is None or self.clock() - self._fetched > STALE

    def refresh(self) -> float | None:
        """Fetch the set; return for how many seconds it is fresh.

        Keep the one at hand, and return None, where that fails or gives no key of use.
        """
        with self._fetching:
            return self._fetch()

    def _fetch(self) -> float | None:
        # Imported here: it costs 30 ms and 7 MB, which a service without a key set saves.
        from app.keys.download import DownloadError, download

        try:
            body, headers = download(self.url)
        except DownloadError as error:
            log.warning("AUTH_JWKS_URL: the key set cannot be fetched: %s", error)
            return None
        try:
            keys = tuple(_usable(json.loads(body), self.algorithms))
        except (ValueError, TypeError, KeyError, RecursionError):
            log.warning("AUTH_JWKS_URL: what is there is not a key set")
            return None
        if not keys:
            log.warning("AUTH_JWKS_URL: the key set has no key of use")
            return None
        self._keys, self._fetched = keys, self.clock()
        return _fresh_for(headers)

    def _matching(self, kid: str | None) -> tuple[Key, ...]:
        return tuple(key for name, key in self._keys if kid is None or name == kid)

    def _ask(self, kid: str | None) -> None:
        # Who comes with a new key while it is being fetched waits for it; but not every thread for a server that hangs.
        if not self._fetching.acquire(timeout=PATIENCE):
            return
        try:
            if self._matching(kid) and not self._is_stale():
                return  # the fetch that was waited for has brought it
            now = self.clock()
            if self._asked is None or now - self._asked >= ASK_AGAIN:
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
                self._closing.wait(fresh_for * 0.8)  # before they expire
            else:
                self._closing.wait(wait)
                wait = min(2 * wait, 30.0)


def _fresh_for(headers: Mapping[str, str]) -> float:
    age = re.search(r"max-age=([0-9]{1,9})", headers.get("Cache-Control", ""))
    return min(max(float(age[1]), SHORTEST), LONGEST) if age else USUAL


def _usable(document: Any, algorithms: tuple[str, ...]) -> list[tuple[str | None, Key]]:
    """The keys of a set that verify signatures, each with its kid; symmetric and broken ones are passed over."""
    usable = []
    for entry in document["keys"][:MOST]:
        try:
            if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
                continue
            # Its own type's algorithm alone, whatever it or a token says.
            key = public_key(jwt.PyJWK(entry).key)
            if key.algorithm in algorithms and entry.get("alg", key.algorithm) == key.algorithm:
                usable.append((entry.get("kid"), key))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
    return usable
