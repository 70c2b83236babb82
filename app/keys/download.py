"""Downloads a document from another host, within limits of time and size, through the operator's proxy if set."""

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

TIMEOUT_SECONDS = 3.0  # for the whole download: name lookup, proxy, TLS, headers and body
MAX_BYTES = 2**20
# Some firewalls refuse a request without a User-Agent. Some servers choose the format by Accept (RFC 7517 §8.5).
HEADERS = {"User-Agent": "progress-tracking/0.1.0", "Accept": "application/jwk-set+json, application/json"}


class DownloadError(Exception):
    """The download failed. The text says why, for the log. It has no URL, no value of a header and no credentials."""


def download(url: str) -> tuple[bytes, Mapping[str, str]]:
    """Return the body and the headers of the document at `url`, or raise DownloadError.

    HTTPS_PROXY and NO_PROXY are obeyed. Redirects are not followed, because the setting names the document itself.
    """
    adapter = _Adapter()
    done: Future[tuple[bytes, Mapping[str, str]]] = Future()
    try:
        # Use a thread: no timeout of a library limits a slow name lookup, or a server that sends a byte now and then.
        threading.Thread(target=_run, args=(done, lambda: _get(url, adapter)), daemon=True).start()
        return done.result(TIMEOUT_SECONDS)
    except DownloadError:
        raise
    except (TimeoutError, requests.Timeout):
        raise DownloadError(f"no complete answer within {TIMEOUT_SECONDS:g} seconds") from None
    except Exception as error:  # noqa: BLE001 - requests does not wrap every error of urllib3 and Python
        raise DownloadError(_describe_error(error)) from None
    finally:
        adapter.end()


def _run(done: Future[Any], work: Callable[[], Any]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # noqa: BLE001 - done.result() raises it
        done.set_exception(error)


def _get(url: str, adapter: HTTPAdapter) -> tuple[bytes, Mapping[str, str]]:
    with requests.Session() as session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, adapter)
        # http is allowed for this machine only, which needs no proxy.
        session.trust_env = url.startswith("https://")
        with session.get(
            url,
            headers=HEADERS,
            # An authentication that does nothing. Without it, requests would send the credentials of ~/.netrc.
            auth=lambda request: request,
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            stream=True,
            verify=_authorities(),
        ) as response:
            if response.status_code != 200:
                raise DownloadError(_describe_status(url, response))
            body = bytearray()
            for chunk in response.iter_content(2**16):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise DownloadError("the answer is larger than 1 MiB")
            return bytes(body), response.headers


def _authorities() -> str | bool:
    """Return where the trusted certificates are: SSL_CERT_FILE, or the system's. True means those of requests."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


class _Adapter(HTTPAdapter):
    """An adapter of requests for one request. Another thread can end its connection."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._ended = False

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> HTTPConnectionPool:
        pool: HTTPConnectionPool = super().get_connection_with_tls_context(*args, **options)
        adapter = self

        class Connection(pool.ConnectionCls):  # type: ignore[name-defined, misc]  # the class for http or for https
            def connect(self) -> None:
                adapter._connection = self
                super().connect()
                # The connection forgets its socket after the headers, but the body is still read from that socket.
                adapter._socket = self.sock
                # end() may have run during the TLS handshake. It then ended the plain socket, which is replaced now.
                if adapter._ended:
                    self.close()
                    raise TimeoutError

        pool.ConnectionCls = Connection
        return pool

    def end(self) -> None:
        """End the connection, also while another thread reads from it."""
        self._ended = True
        opened = self._socket or (self._connection and self._connection.sock)
        # Use the file descriptor, because urllib3's object for TLS inside the TLS of a proxy has no shutdown().
        with contextlib.suppress(OSError):  # the socket was closed meanwhile
            if opened:
                with socket.socket(fileno=os.dup(opened.fileno())) as same:
                    same.shutdown(socket.SHUT_RDWR)


def _describe_status(url: str, response: requests.Response) -> str:
    if response.is_redirect:
        host = urlsplit(urljoin(url, response.headers["Location"])).hostname
        return f"{response.status_code} to {host}; redirects are not followed: set the document's URL"
    return str(response.status_code)


def _describe_error(error: BaseException) -> str:
    """Describe the innermost cause in our words. The texts of the libraries have URLs, with the proxy's password."""
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return "the URL, or the URL of the proxy, is not valid"
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
