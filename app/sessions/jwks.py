"""The keys of another identity provider: a JSON Web Key Set (RFC 7517), cached and kept fresh in the background."""

import contextlib
import http.client
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import jwt

from app.settings import Key, public_key

TIMEOUT = 3.0  # seconds, for a whole fetch once it is connected, and for connecting
LARGEST = 2**20  # bytes
MOST = 100  # keys
STALE = 24 * 3600.0  # seconds that a set is served after its last successful fetch
ASK_AGAIN = 30.0  # seconds between two fetches that tokens cause
PATIENCE = 0.5  # seconds that a token waits for the fetch that another one caused
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
        self._asking = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, daemon=True)

    def start(self) -> None:
        """Fetch now and from time to time in the background; only after a worker's fork, which no thread survives."""
        self._thread.start()

    def close(self) -> None:
        """Stop fetching."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2 * TIMEOUT + 1)

    def find(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that a token with this `kid` may be signed with, none if there is no such key.

        Of an unknown kid the provider is asked at once, at most every 30 seconds: forged ones cause no storm.
        Raises NotKnownError while there is no set to look into.
        """
        found = self._matching(kid)
        if not found or self._is_stale():
            self._ask()
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
        try:
            body, fresh_for = _fetch(self.url)
            keys = tuple(_usable(json.loads(body), self.algorithms))
        except Exception as error:  # noqa: BLE001 - whatever a server, a network or rubbish may cause
            log.warning("AUTH_JWKS_URL: the key set cannot be fetched: %s", type(error).__name__)
            return None
        if not keys:
            log.warning("AUTH_JWKS_URL: the key set has no key of use")
            return None
        self._keys, self._fetched = keys, self.clock()
        return fresh_for

    def _matching(self, kid: str | None) -> tuple[Key, ...]:
        return tuple(key for name, key in self._keys if kid is None or name == kid)

    def _ask(self) -> None:
        # Who comes with a new key while it is being fetched waits for it; but not every thread for a server that hangs.
        if not self._asking.acquire(timeout=PATIENCE):
            return
        try:
            now = self.clock()
            if self._asked is None or now - self._asked >= ASK_AGAIN:
                self._asked = now
                self.refresh()
        finally:
            self._asking.release()

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


def _fetch(url: str) -> tuple[bytes, float]:
    """Get the document at `url`, and how many seconds it is fresh. No redirect is followed: the setting names it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=TIMEOUT, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
    connection.connect()
    opened = connection.sock
    # The timeout of a socket is for each read: this ends a server that sends a byte now and then.
    watch = threading.Timer(TIMEOUT, _end, [opened])
    watch.start()
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", (parts.path or "/") + query)
        response = connection.getresponse()
        body = response.read(LARGEST + 1)
        if response.status != 200 or len(body) > LARGEST:
            raise ValueError("not a key set")
        age = re.search(r"max-age=([0-9]{1,9})", response.headers.get("Cache-Control", ""))
        return body, min(max(float(age[1]), SHORTEST), LONGEST) if age else USUAL
    finally:
        watch.cancel()
        connection.close()
        opened.close()


def _end(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed in this moment
        opened.shutdown(socket.SHUT_RDWR)


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
