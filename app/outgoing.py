"""Requests to other hosts: within a limit of time for the whole, and through the operator's proxy if set."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

# Some firewalls refuse a request without a User-Agent.
USER_AGENT = "progress-tracking/0.1.0"

T = TypeVar("T")


class RequestError(Exception):
    """The request failed. The text says why, for the log. It has no URL, no value of a header and no credentials."""


def send(
    method: str,
    url: str,
    headers: Mapping[str, str],
    seconds: float,
    use: Callable[[requests.Response], T],
    body: bytes | None = None,
) -> T:
    """Send a request and return what `use` makes of the response, whose body is not read yet. Or raise RequestError.

    `seconds` limit everything: name lookup, proxy, TLS, the request, the response and `use`. HTTPS_PROXY and NO_PROXY
    are obeyed. Redirects are not followed, because a setting names the URL itself.
    """
    adapter = _Adapter()
    done: Future[T] = Future()

    def exchange() -> T:
        with requests.Session() as session:
            for scheme in ("https://", "http://"):
                session.mount(scheme, adapter)
            # http is for this machine or for the same network, which needs no proxy.
            session.trust_env = url.startswith("https://")
            with session.request(
                method,
                url,
                data=body,
                headers={"User-Agent": USER_AGENT, **headers},
                # An authentication that does nothing. Without it, requests would send the credentials of ~/.netrc.
                auth=lambda request: request,
                timeout=seconds,
                allow_redirects=False,
                stream=True,
                verify=_authorities(),
            ) as response:
                return use(response)

    try:
        # Use a thread: no timeout of a library limits a slow name lookup, or a server that sends a byte now and then.
        threading.Thread(target=_run, args=(done, exchange), daemon=True).start()
        return done.result(seconds)
    except RequestError:
        raise
    except (TimeoutError, requests.Timeout):
        raise RequestError(f"no complete answer within {seconds:g} seconds") from None
    except Exception as error:  # noqa: BLE001 - requests does not wrap every error of urllib3 and Python
        raise RequestError(_describe_error(error)) from None
    finally:
        adapter.end()


def _run(done: Future[Any], work: Callable[[], Any]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # noqa: BLE001 - done.result() raises it
        done.set_exception(error)


def redirect_host(response: requests.Response) -> str | None:
    """Return the host that a response redirects to, None if it is no redirect."""
    if not response.is_redirect:
        return None
    return urlsplit(urljoin(response.url, response.headers["Location"])).hostname


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
            early = isinstance(cause, IncompleteRead | RemoteDisconnected)
            words = "the connection ended early" if early else "the answer is not HTTP"
        cause = cause.__cause__ or cause.__context__
    return f"the proxy: {words}" if isinstance(error, requests.exceptions.ProxyError) else words
