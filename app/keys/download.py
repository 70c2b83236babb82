"""One GET of a document from another host, within bounds of time and size, by the operator's proxy if there is one."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

TIMEOUT = 3.0  # seconds, for all of it: the name's address, the proxy, TLS, headers and body
MAX_BYTES = 2**20
# Firewalls refuse a request that names no client, and servers may ask what form of answer is expected (RFC 7517 §8.5).
HEADERS = {"User-Agent": "progress-tracking/0.1.0", "Accept": "application/jwk-set+json, application/json"}


class DownloadError(Exception):
    """There is no document. Its text says why, for the log: no URL, no header's value, no credentials."""


def download(url: str) -> tuple[bytes, Mapping[str, str]]:
    """Return the body and the headers of the document at `url`, or raise DownloadError.

    HTTPS_PROXY and NO_PROXY are followed; a redirect is not, since the setting names the document.
    """
    adapter = _Adapter()
    done: Future[tuple[bytes, Mapping[str, str]]] = Future()
    try:
        # No timeout of a library bounds a slow lookup of a name, or a server that sends a byte now and then.
        threading.Thread(target=_run, args=(done, lambda: _get(url, adapter)), daemon=True).start()
        return done.result(TIMEOUT)
    except DownloadError:
        raise
    except (TimeoutError, requests.Timeout):
        raise DownloadError(f"no whole answer within {TIMEOUT:g} seconds") from None
    except Exception as error:  # noqa: BLE001 - requests lets some of urllib3's and Python's own through
        raise DownloadError(_in_words(error)) from None
    finally:
        adapter.end()


def _run(done: Future[Any], work: Callable[[], Any]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # noqa: BLE001 - it is raised where the result is waited for
        done.set_exception(error)


def _get(url: str, adapter: HTTPAdapter) -> tuple[bytes, Mapping[str, str]]:
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, adapter)
        # http is allowed for this machine only, and no proxy is needed to reach it.
        session.trust_env = url.startswith("https://")
        with session.get(
            url,
            headers=HEADERS,
            # An authentication that does nothing: without one, requests sends the credentials of ~/.netrc.
            auth=lambda request: request,
            timeout=TIMEOUT,
            allow_redirects=False,
            stream=True,
            verify=_authorities(),
        ) as response:
            if response.status_code != 200:
                raise DownloadError(_answered(url, response))
            body = bytearray()
            for chunk in response.iter_content(2**16):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise DownloadError("the answer is larger than 1 MiB")
            return bytes(body), response.headers


def _authorities() -> str | bool:
    """The trusted certificates: SSL_CERT_FILE or the system's; where there are none, those that requests brings."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


class _Adapter(HTTPAdapter):
    """requests' own adapter for one request, whose connection can be ended by another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._ended = False

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> HTTPConnectionPool:
        pool: HTTPConnectionPool = super().get_connection_with_tls_context(*args, **options)
        adapter = self

        class Connection(pool.ConnectionCls):  # type: ignore[name-defined, misc]  # of http or of https
            def connect(self) -> None:
                adapter._connection = self
                super().connect()
                # The connection drops its socket once the headers are read; the body is still read from that socket.
                adapter._socket = self.sock
                # end() may have run during the handshake, on the plain socket, which the TLS socket has replaced since.
                if adapter._ended:
                    self.close()
                    raise TimeoutError

        pool.ConnectionCls = Connection
        return pool

    def end(self) -> None:
        """End the connection, whatever is being read from it."""
        self._ended = True
        opened = self._socket or (self._connection and self._connection.sock)
        # By its descriptor: urllib3's object for TLS inside the TLS of a proxy has no shutdown().
        with contextlib.suppress(OSError):  # it was closed in this moment
            if opened:
                with socket.socket(fileno=os.dup(opened.fileno())) as same:
                    same.shutdown(socket.SHUT_RDWR)


def _answered(url: str, response: requests.Response) -> str:
    if response.is_redirect:
        host = urlsplit(urljoin(url, response.headers["Location"])).hostname
        return f"{response.status_code} to {host}; name the document's own URL, for no redirect is followed"
    return str(response.status_code)


def _in_words(error: BaseException) -> str:
    """Say what the innermost cause is. The texts of the libraries have URLs in them, the proxy's password too."""
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return "the URL, or that of the proxy, is of no use"
    words = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            words = f"TLS: {getattr(cause, 'verify_message', '') or cause.reason}"
        elif isinstance(cause, socket.gaierror):
            words = "the host's name has no address"
        elif isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed: "):
            words = str(cause).split()[3]  # the status
        elif isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
        elif isinstance(cause, HTTPException):
            words = "the connection ended early" if isinstance(cause, IncompleteRead) else "the answer is not HTTP"
        cause = cause.__cause__ or cause.__context__
    return f"the proxy: {words}" if isinstance(error, requests.exceptions.ProxyError) else words
