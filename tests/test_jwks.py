"""Contract §5: the key set of another identity provider.

The provider is a real HTTP server that rotates keys, hangs, dies and sends wrong answers.
"""

import contextlib
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flask.testing import FlaskClient

from app.keys import download, jwks
from app.keys.jwks import KeySet, NoKeySetError
from app.service import service_of
from app.settings import ALGORITHMS, SettingsError, from_environ
from tests.conftest import ROOT, free_port
from tests.world import SECRET, add_user, assert_problem, token

RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
GET = "/api/progress/summary"


def jwk(private: Any, kid: str | None, **members: Any) -> dict[str, Any]:
    """Return the public key of a key pair, as a provider publishes it."""
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}.get(
        next((kind for kind in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey) if isinstance(private, kind)), None),  # type: ignore[arg-type]
        "EdDSA",
    )
    made = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
    return {k: v for k, v in (made | {"kid": kid} | members).items() if v is not None}


class Provider:
    """A provider's server: what it answers, and how often it was asked. With a certificate it uses TLS."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.keys: list[Any] = [jwk(RSA, "one")]
        self.body: bytes | None = None
        self.status = 200
        self.headers: dict[str, str] = {}
        self.behaviour = ""
        self.asked = 0
        self.paths: list[str] = []
        self.requests: list[dict[str, str]] = []  # the headers of each request
        self.sent = 0  # in mebibytes
        self.go = threading.Event()
        self.over = threading.Event()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                provider.paths.append(self.path)
                provider.requests.append(dict(self.headers.items()))
                body = provider.body if provider.body is not None else json.dumps({"keys": provider.keys}).encode()
                if provider.behaviour == "hold":
                    provider.go.wait(20)
                if provider.behaviour == "hang":
                    provider.over.wait(20)
                    return
                if provider.behaviour == "nonsense":
                    self.wfile.write(b"220 smtp.example ESMTP\r\n")
                    return
                # Many web application firewalls refuse requests that lack these.
                named = not self.headers.get("User-Agent", "python").lower().startswith(("python", "curl"))
                json_wanted = "application/json" in self.headers.get("Accept", "")
                self.send_response(provider.status if named and json_wanted else 403)
                for name, value in provider.headers.items():
                    self.send_header(name, value)
                if provider.behaviour == "drip headers":
                    self.flush_headers()
                else:
                    self.end_headers()
                    self.wfile.write(body)
                if provider.behaviour == "much":
                    with contextlib.suppress(OSError):
                        for provider.sent in range(1, 101):
                            self.wfile.write(b" " * 2**20)
                    provider.over.set()
                while provider.behaviour.startswith("drip") and not provider.over.wait(0.1):
                    try:
                        self.wfile.write(b"X" if provider.behaviour == "drip headers" else b" ")
                        self.wfile.flush()
                    except OSError:
                        return

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server.server_port}/keys"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def die(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    if provider.thread.is_alive():
        provider.die()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key_set_of(api: FlaskClient) -> KeySet:
    found = service_of(api.application).key_set
    assert found
    return found


def key_set(provider: Provider, clock: Clock, algorithms: tuple[str, ...] = ALGORITHMS) -> KeySet:
    """Return a key set that a test refreshes itself, without the thread in the background."""
    return KeySet(provider.url, algorithms, clock)


def algorithms(keys: KeySet, kid: str | None) -> list[str]:
    return [key.algorithm for key in keys.find(kid)]


def test_each_key_is_of_its_own_types_algorithm(provider, clock):
    provider.keys = [jwk(RSA, "r"), jwk(EC, "e"), jwk(ED, "o"), jwk(OTHER_RSA, "r")]
    keys = key_set(provider, clock)
    assert algorithms(keys, "r") == ["RS256", "RS256"]
    assert (algorithms(keys, "e"), algorithms(keys, "o")) == (["ES256"], ["EdDSA"])
    assert algorithms(keys, None) == ["RS256", "ES256", "EdDSA", "RS256"]
    assert provider.asked == 1


def test_only_the_configured_algorithms_are_used(provider, clock):
    provider.keys = [jwk(RSA, "r"), jwk(EC, "e")]
    keys = key_set(provider, clock, ("ES256",))
    assert (algorithms(keys, "r"), algorithms(keys, "e")) == ([], ["ES256"])


SMALL = rsa.generate_private_key(65537, 1024)
PASSED_OVER: dict[str, Any] = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
    "symmetric that says otherwise": {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "RS256"},
    "for encryption": jwk(RSA, "x", use="enc"),
    "for signing only": jwk(RSA, "x", key_ops=["sign"]),
    "of another algorithm": jwk(RSA, "x", alg="PS256"),
    "of another type's algorithm": jwk(RSA, "x", alg="HS256"),
    "too short": jwk(SMALL, "x"),
    "of another curve": jwk(ec.generate_private_key(ec.SECP384R1()), "x"),
    "private": json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(RSA)) | {"kid": "x"},
    "broken": {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "x"},
    "incomplete": {"kty": "EC", "crv": "P-256", "kid": "x"},
    "of no known type": {"kty": "quantum", "kid": "x"},
    "not an object": 7,
    "null": None,
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_key_that_is_of_no_use_is_passed_over_and_the_others_are_used(provider, clock, name):
    provider.keys = [PASSED_OVER[name], jwk(RSA, "good")]
    keys = key_set(provider, clock)
    assert (algorithms(keys, "x"), algorithms(keys, "good")) == ([], ["RS256"])


def log_messages(caplog) -> list[str]:
    """Return the messages that the key set has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "app.keys.jwks"]


NO_SET = "the document is not a key set"
NO_KEY = "the key set has no usable key"
# Answers of the provider that are no key set, and the messages in the log.
RUBBISH: dict[str, tuple[dict[str, Any], str]] = {
    "HTML": ({"body": b"<html>"}, NO_SET),
    "an array": ({"body": b"[]"}, NO_SET),
    "no keys": ({"body": b'{"keys": []}'}, NO_KEY),
    "keys of no use": ({"keys": [PASSED_OVER["symmetric"]]}, NO_KEY),
    "keys that are none": ({"body": b'{"keys": 7}'}, NO_SET),
    "not UTF-8": ({"body": b"\xff\xfe"}, NO_SET),
    "deep": ({"body": b"[" * 100_000}, NO_SET),
    "huge": (
        {"body": json.dumps({"keys": [jwk(RSA, "two")]}).encode().ljust(2**20 + 1)},
        "the key set cannot be fetched: the answer is larger than 1 MiB",
    ),
    "an error": ({"status": 500}, "the key set cannot be fetched: 500"),
    "a firewall's refusal": ({"status": 403}, "the key set cannot be fetched: 403"),
    "a redirect": (
        {"status": 301, "headers": {"Location": "https://user:word@moved.example/keys?secret=1"}},
        "the key set cannot be fetched: 301 to moved.example; redirects are not followed: set the document's URL",
    ),
    "a redirect on the same host": (
        {"status": 302, "headers": {"Location": "/elsewhere"}},
        "the key set cannot be fetched: 302 to 127.0.0.1; redirects are not followed: set the document's URL",
    ),
    "nothing": ({"status": 204}, "the key set cannot be fetched: 204"),
    "not HTTP": ({"behaviour": "nonsense"}, "the key set cannot be fetched: the answer is not HTTP"),
    "an answer that is cut off": (
        {"headers": {"Content-Length": "999999"}},
        "the key set cannot be fetched: the connection ended early",
    ),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_does_not_replace_a_good_set_and_the_log_says_what_it_was(provider, clock, name, caplog):
    keys = key_set(provider, clock)
    assert keys.refresh()
    answer, words = RUBBISH[name]
    for attribute, value in answer.items():
        setattr(provider, attribute, value)
    with caplog.at_level(logging.WARNING, "app"):
        assert not keys.refresh()
    assert algorithms(keys, "one") == ["RS256"]
    assert log_messages(caplog) == [f"AUTH_JWKS_URL: {words}"]
    assert provider.asked == 2
    # Without an earlier set, such an answer leaves the service without a key set.
    with pytest.raises(NoKeySetError):
        key_set(provider, clock).find("one")


def test_a_set_may_have_a_mebibyte_and_a_hundred_keys(provider, clock):
    keys = [None] * 99 + [jwk(RSA, "the hundredth"), jwk(RSA, "and one")]
    provider.body = json.dumps({"keys": keys}).encode().ljust(2**20)
    found = key_set(provider, clock)
    assert (algorithms(found, "the hundredth"), algorithms(found, "and one")) == (["RS256"], [])


def test_no_more_is_read_than_a_set_may_have(provider, clock):
    provider.behaviour = "much"
    assert not key_set(provider, clock).refresh()
    provider.over.wait(20)
    assert provider.sent < 100


LATE = "AUTH_JWKS_URL: the key set cannot be fetched: no complete answer within 0.3 seconds"


@pytest.fixture
def short(monkeypatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)


def test_a_fetch_may_take_three_seconds():
    assert download.TIMEOUT_SECONDS == 3


@pytest.mark.parametrize("behaviour", ["hang", "drip headers", "drip body"])
def test_a_server_that_does_not_end_is_left_in_time(provider, clock, behaviour, monkeypatch, caplog):
    assert key_set(provider, clock).refresh()  # this one has the usual time, because it must succeed on a busy machine
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.3)
    provider.behaviour = behaviour
    started = time.monotonic()
    assert not key_set(provider, clock).refresh()
    assert time.monotonic() - started < 10
    assert log_messages(caplog) == [LATE]
    wait_until_nobody_fetches()


def wait_until_nobody_fetches() -> None:
    """Wait until no abandoned thread reads from a server any more."""
    wait_for(lambda: not any("_run" in thread.name for thread in threading.enumerate()))


def test_a_name_that_is_looked_up_slowly_is_left_in_time(provider, clock, short, monkeypatch, caplog):
    found, look_up = threading.Event(), socket.getaddrinfo

    def slowly(host: str, *args: Any) -> Any:
        found.wait(20)
        return look_up("127.0.0.1", *args)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    provider.url = provider.url.replace("127.0.0.1", "localhost")
    provider.behaviour = "drip headers"
    started = time.monotonic()
    assert not key_set(provider, clock).refresh()
    assert time.monotonic() - started < 10
    assert log_messages(caplog) == [LATE]
    # The address is found now, but the fetch has already been given up.
    found.set()
    wait_until_nobody_fetches()
    assert provider.asked == 0


@pytest.mark.parametrize(("scheme", "waiting"), [("https", 0), ("https", 2), ("http", 2)])
def test_a_server_that_takes_no_connection_is_left_too(clock, short, caplog, scheme, waiting):
    with contextlib.ExitStack() as stack:
        # With this backlog, the kernel accepts one connection, which nobody answers. Further ones are never accepted.
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        end = threading.Timer(20, server.close)
        end.start()
        stack.callback(end.cancel)
        for _ in range(waiting):
            with contextlib.suppress(TimeoutError):
                stack.enter_context(socket.create_connection(server.getsockname(), timeout=0.1))
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/"
        started = time.monotonic()
        assert not KeySet(url, ALGORITHMS, clock).refresh()
        assert time.monotonic() - started < 10
        assert log_messages(caplog) == [LATE]
        wait_until_nobody_fetches()  # the end of the server may meet a TLS handshake that begins late


def test_a_rotated_key_is_found_at_once_and_the_old_one_is_gone(provider, clock):
    keys = key_set(provider, clock)
    assert algorithms(keys, "one") == ["RS256"]
    provider.keys = [jwk(EC, "two")]
    clock.now += 30
    assert (algorithms(keys, "two"), algorithms(keys, "one")) == (["ES256"], [])


def find_in_thread(keys: KeySet, kid: str) -> tuple[threading.Thread, list[str]]:
    """Look for a key in a thread. When the thread has ended, the list has the algorithms of the keys that it found."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(algorithms(keys, kid)))
    thread.start()
    return thread, found


@pytest.mark.parametrize("patience", [20.0, 0.05])
def test_who_comes_while_a_rotated_key_is_fetched_waits_for_it_but_not_for_a_server_that_hangs(
    provider, clock, monkeypatch, patience
):
    monkeypatch.setattr(jwks, "FETCH_WAIT_SECONDS", patience)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 20.0)
    keys = key_set(provider, clock)
    keys.find("one")
    provider.keys, provider.behaviour = [jwk(EC, "two")], "hold"
    clock.now += 30
    first, found_first = find_in_thread(keys, "two")
    while provider.asked < 2:
        time.sleep(0.01)
    second, found_second = find_in_thread(keys, "two")
    if patience < 1:
        second.join(60)
        assert (found_second, first.is_alive()) == ([], True)
        # A token with a known key does not wait.
        assert algorithms(keys, "one") == ["RS256"]
    else:
        second.join(0.1)
        assert second.is_alive()
    provider.go.set()
    for thread in (first, second):
        thread.join(60)
    assert found_first == ["ES256"]
    assert found_second == (["ES256"] if patience > 1 else [])
    assert provider.asked == 2


def test_of_two_fetches_at_once_the_older_set_never_replaces_the_newer_one(provider, clock):
    keys = key_set(provider, clock)
    provider.behaviour = "hold"
    older = threading.Thread(target=keys.refresh)
    older.start()
    wait_for(lambda: provider.asked == 1)
    # The provider rotates its keys while its first answer is still on the way.
    provider.behaviour, provider.keys = "", [jwk(EC, "two")]
    newer = threading.Thread(target=keys.refresh)
    newer.start()
    newer.join(0.3)
    provider.go.set()
    for thread in (older, newer):
        thread.join(60)
    assert (algorithms(keys, "two"), provider.asked) == (["ES256"], 2)


def test_forged_kids_cause_one_call_in_thirty_seconds(provider, clock):
    keys = key_set(provider, clock)
    keys.find("one")
    clock.now += 30
    threads = [
        threading.Thread(target=lambda start=start: [keys.find(f"forged-{n}") for n in range(start, start + 25)])
        for start in range(0, 200, 25)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert provider.asked == 2
    clock.now += 29
    assert keys.find("forged") == ()
    assert provider.asked == 2
    clock.now += 1
    assert keys.find("forged") == ()
    assert provider.asked == 3


def test_with_the_provider_dead_for_ten_minutes_known_keys_verify_and_unknown_ones_do_not(provider, clock):
    keys = key_set(provider, clock)
    keys.find("one")
    provider.die()
    clock.now += 600
    assert algorithms(keys, "one") == ["RS256"]
    assert keys.find("unknown") == ()


def test_a_set_is_served_for_twenty_four_hours_and_no_longer(provider, clock):
    keys = key_set(provider, clock)
    keys.find("one")
    provider.die()
    clock.now += 24 * 3600
    assert algorithms(keys, "one") == ["RS256"]
    clock.now += 1
    with pytest.raises(NoKeySetError):
        keys.find("one")


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [(None, 600), ("max-age=120", 120), ("public, max-age=1", 60), ("max-age=999999", 3600), ("no-store", 600)],
)
def test_a_set_is_fresh_as_long_as_it_says_within_bounds(provider, clock, cache_control, seconds):
    provider.headers = {"Cache-Control": cache_control} if cache_control else {}
    assert key_set(provider, clock).refresh() == seconds


def certificate(folder: Path, name: str) -> Path:
    """Make a self-signed certificate for an address. Return one file with the certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer, issuer, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return file


@pytest.mark.parametrize(
    ("address", "trusted", "words"),
    [
        ("127.0.0.1", True, []),
        ("127.0.0.1", False, ["TLS: self-signed certificate"]),
        ("::1", True, ["TLS: IP address mismatch, certificate is not valid for '127.0.0.1'."]),
    ],
)
def test_a_provider_is_believed_whose_certificate_is_trusted_and_its_own(
    tmp_path, monkeypatch, caplog, address, trusted, words
):
    file = certificate(tmp_path, address)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    provider = Provider(file)
    try:
        assert bool(KeySet(provider.url, ALGORITHMS).refresh()) is not bool(words)
    finally:
        provider.die()
    assert log_messages(caplog) == [f"AUTH_JWKS_URL: the key set cannot be fetched: {word}" for word in words]


def test_a_provider_that_speaks_no_tls_or_is_not_there_is_told_in_words(provider, clock, caplog):
    provider.url = provider.url.replace("http", "https")
    assert not key_set(provider, clock).refresh()
    provider.die()
    assert not key_set(provider, clock).refresh()
    provider.url = "https://there-is-none.invalid/keys"
    assert not key_set(provider, clock).refresh()
    start = "AUTH_JWKS_URL: the key set cannot be fetched: "
    assert [message.removeprefix(start) for message in log_messages(caplog)] == [
        "TLS: WRONG_VERSION_NUMBER",
        "Connection refused",
        "the host's name has no address",
    ]


def test_the_client_says_who_it_is_and_what_it_wants_and_nothing_of_its_user(provider, clock, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert key_set(provider, clock).refresh()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [sent] = provider.requests
    assert sent.pop("Host")
    assert sent == {
        "User-Agent": f"progress-tracking/{version}",
        "Accept": "application/jwk-set+json, application/json",
        "Accept-Encoding": sent["Accept-Encoding"],
        "Connection": "keep-alive",
    }


class Proxy:
    """A proxy with CONNECT. It connects every tunnel to one port of this machine, whatever host was asked for."""

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        self.scheme = "https" if certificate else "http"
        self.asked: list[tuple[str, str | None]] = []
        self.drips = False
        self.over = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                authorization = self.headers.get("Proxy-Authorization")
                proxy.asked.append((self.path, authorization))
                if proxy.drips:
                    while not proxy.over.wait(0.1):
                        try:
                            self.wfile.write(b"H")
                        except OSError:
                            return
                if authorization != "Basic " + b64encode(b"user:word").decode():
                    self.send_error(407)
                    return
                with socket.create_connection(("127.0.0.1", port)) as server:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=self.pass_on, args=(server, self.connection))
                    back.start()
                    self.pass_on(self.connection, server)
                    back.join()

            def pass_on(self, source: socket.socket, target: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while data := source.recv(2**16):
                        target.sendall(data)
                    target.shutdown(socket.SHUT_WR)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, password: str = "word") -> str:
        return f"{self.scheme}://user:{password}@127.0.0.1:{self.server.server_port}"

    def die(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def tls_provider(tmp_path, monkeypatch) -> Iterator[Provider]:
    file = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    provider = Provider(file)
    yield provider
    provider.die()


@pytest.fixture(params=["http", "https"])
def proxy(request, tls_provider, tmp_path) -> Iterator[Proxy]:
    proxy = Proxy(tls_provider.server.server_port, tmp_path / "127.0.0.1.pem" if request.param == "https" else None)
    yield proxy
    proxy.die()


def test_the_way_out_is_the_proxy_of_the_environment(tls_provider, proxy, clock, monkeypatch):
    address = tls_provider.url.split("/")[2]
    monkeypatch.setenv("HTTPS_PROXY", proxy.url())
    assert key_set(tls_provider, clock).refresh()
    assert [asked for asked, _ in proxy.asked] == [address]
    assert "Proxy-Authorization" not in tls_provider.requests[0]
    monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.1")
    assert key_set(tls_provider, clock).refresh()
    assert (len(proxy.asked), tls_provider.asked) == (1, 2)


def test_a_server_behind_the_proxy_that_does_not_end_is_left_in_time(
    tls_provider, proxy, clock, monkeypatch, short, caplog
):
    monkeypatch.setenv("HTTPS_PROXY", proxy.url())
    tls_provider.behaviour = "drip body"
    assert not key_set(tls_provider, clock).refresh()
    assert log_messages(caplog) == [LATE]
    wait_until_nobody_fetches()


def test_what_the_proxy_does_wrong_is_told_without_its_password(tls_provider, proxy, clock, monkeypatch, short, caplog):
    for url in (proxy.url("wrong-word"), "http://user:word@127.0.0.1:1", "socks5://user:word@127.0.0.1:1"):
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert not key_set(tls_provider, clock).refresh()
    monkeypatch.setenv("HTTPS_PROXY", proxy.url())
    proxy.drips = True
    started = time.monotonic()
    assert not key_set(tls_provider, clock).refresh()
    assert time.monotonic() - started < 10
    wait_until_nobody_fetches()
    start = "AUTH_JWKS_URL: the key set cannot be fetched: "
    assert [message.removeprefix(start) for message in log_messages(caplog)] == [
        "the proxy: 407",
        "the proxy: Connection refused",
        "the URL, or the URL of the proxy, is not valid",
        "no complete answer within 0.3 seconds",
    ]
    assert tls_provider.asked == 0


def test_a_provider_on_this_machine_is_asked_without_the_proxy(provider, clock, monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert key_set(provider, clock).refresh()


@pytest.mark.parametrize("path", ["", "/", "/a/b", "/a?b=c&d", "?b=c"])
def test_the_url_is_asked_for_as_it_is_set(provider, clock, path):
    provider.url = provider.url.replace("/keys", path)
    assert key_set(provider, clock).refresh()
    asked = provider.paths[0]
    assert asked == (path if path.startswith("/") else f"/{path}")


def wait_for(fact: Any) -> None:
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_fetched_in_the_background_and_again_before_it_expires(provider, monkeypatch):
    monkeypatch.setattr(jwks, "DEFAULT_FRESH_SECONDS", 0.1)
    keys = KeySet(provider.url, ALGORITHMS)
    keys.start()
    wait_for(lambda: provider.asked >= 3)
    keys.close()
    asked = provider.asked
    assert algorithms(keys, "one") == ["RS256"]
    assert provider.asked == asked


def test_it_is_asked_for_ever_more_seldom_while_there_is_none(provider, clock):
    keys = key_set(provider, clock)
    statuses = [*[500] * 7, 200, 500, 500, 200]

    class Waits(list[float]):
        """It replaces the event for which the thread waits, and notes how long the thread would have waited."""

        def is_set(self) -> bool:
            if statuses:
                provider.status = statuses.pop(0)
                return False
            return True

        def wait(self, seconds: float) -> None:
            self.append(seconds)

    keys._closing = waits = Waits()  # type: ignore[assignment]
    keys._keep_fresh()
    assert waits == [1, 2, 4, 8, 16, 30, 30, 480, 1, 2, 480]


def test_a_process_ends_though_its_keys_are_kept_fresh():
    code = "from app.keys.jwks import KeySet; KeySet('http://127.0.0.1:1/', ()).start()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# The key set in a service


@pytest.fixture
def api(make_api, provider, db: psycopg.Connection):
    add_user(db)
    api = make_api(AUTH_JWKS_URL=provider.url, AUTH_JWT_SECRET="")
    # Wait for the first fetch in the background, so that it does not disturb the test.
    wait_for(lambda: key_set_of(api)._fetched is not None)
    return api


def status(api, key: Any, algorithm: str, kid: str | None, **claims: Any) -> int:
    signed = token(key=key, algorithm=algorithm, headers={"kid": kid} if kid else None, **claims)
    return int(api.get(GET, headers={"Authorization": f"Bearer {signed}"}).status_code)


def test_a_token_signed_by_a_key_of_the_set_is_a_session(api, provider):
    provider.keys = [jwk(RSA, "one"), jwk(EC, "two"), jwk(ED, "three")]
    key_set_of(api).refresh()
    for key, algorithm, kid in (
        (RSA, "RS256", "one"),
        (EC, "ES256", "two"),
        (ED, "EdDSA", "three"),
        (EC, "ES256", None),
    ):
        assert status(api, key, algorithm, kid) == 200
        assert status(api, key, algorithm, kid, exp=1) == 401
        assert status(api, key, algorithm, kid, aud="another") == 401
    # The key of somebody else, the kid of another key, the algorithm of another key.
    assert status(api, OTHER_RSA, "RS256", "one") == 401
    assert status(api, RSA, "RS256", "two") == 401
    assert status(api, EC, "ES256", "one") == 401


def test_a_public_key_is_no_secret(api, provider):
    key_set_of(api).refresh()
    public = jwk(RSA, "one")["n"]  # PyJWT refuses to sign with it in PEM or DER
    asked = provider.asked
    assert status(api, public, "HS256", "one") == 401
    assert status(api, SECRET, "HS256", "unknown") == 401
    assert provider.asked == asked


def test_the_service_starts_without_the_provider_and_says_503_until_it_is_there(make_api, db, caplog):
    add_user(db)
    api = make_api(AUTH_JWKS_URL=f"http://127.0.0.1:{free_port()}/keys", AUTH_JWT_SECRET="", AUTH_SECRET=SECRET)
    signed = token(key=RSA, algorithm="RS256", headers={"kid": "one"})
    with caplog.at_level("INFO", "progress.requests"):
        answer = api.get(GET, headers={"Authorization": f"Bearer {signed}"})
    assert_problem(answer, "unavailable")
    [line] = [record.__dict__["fields"] for record in caplog.records if record.name == "progress.requests"]
    assert line["error"] == "no key set: no fetch of AUTH_JWKS_URL has succeeded in the last 24 hours"
    assert int(answer.headers["Retry-After"]) >= 1
    # These requests need no key set to be refused.
    assert_problem(api.get(GET), "unauthenticated")
    assert_problem(api.get(GET, headers={"Authorization": "Bearer nonsense"}), "unauthenticated")
    assert status(api, SECRET, "HS256", None) == 401
    # Now the provider starts.
    provider = Provider()
    try:
        key_set_of(api).url = provider.url
        assert key_set_of(api).refresh()
        assert status(api, RSA, "RS256", "one") == 200
    finally:
        provider.die()


def test_known_keys_verify_while_the_provider_is_dead_and_unknown_ones_cause_no_call_each(api, provider):
    key_set = key_set_of(api)
    assert key_set.refresh()
    provider.die()
    now = time.monotonic
    key_set.clock = lambda: now() + 600
    assert status(api, RSA, "RS256", "one") == 200
    assert {status(api, OTHER_RSA, "RS256", f"unknown-{n}") for n in range(20)} == {401}


@pytest.mark.parametrize(
    "url",
    ["http://issuer.example/keys", "ftp://localhost/keys", "keys", "https://", "https://[::1", "//x", "https://x:0"],
)
def test_a_url_that_is_not_https_stops_the_start(url):
    with pytest.raises(SettingsError, match=r"^AUTH_JWKS_URL: is not an https URL"):
        from_environ({"DATABASE_URL": "postgresql:///x", "AUTH_JWKS_URL": url})


@pytest.mark.parametrize(
    "url", ["https://issuer.example/keys", "http://localhost:9/k", "http://127.0.0.1/k", "http://[::1]/k"]
)
def test_http_is_for_this_machine_alone(url):
    assert from_environ({"DATABASE_URL": "postgresql:///x", "AUTH_JWKS_URL": url}).auth_jwks_url == url
