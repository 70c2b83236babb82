"""Downloads a document from another host, within limits of time and size, through the operator's proxy if set."""

from collections.abc import Mapping

import requests

from app.outgoing import RequestError, redirect_host, send

TIMEOUT_SECONDS = 3.0  # for the whole download: name lookup, proxy, TLS, headers and body
MAX_BYTES = 2**20
# Some servers choose the format by Accept (RFC 7517 §8.5).
HEADERS = {"Accept": "application/jwk-set+json, application/json"}


def download(url: str) -> tuple[bytes, Mapping[str, str]]:
    """Return the body and the headers of the document at `url`, or raise RequestError."""
    return send("GET", url, HEADERS, TIMEOUT_SECONDS, _read)


def _read(response: requests.Response) -> tuple[bytes, Mapping[str, str]]:
    if response.status_code != 200:
        host = redirect_host(response)
        advice = f" to {host}; redirects are not followed: set the document's URL" if host else ""
        raise RequestError(f"{response.status_code}{advice}")
    body = bytearray()
    for chunk in response.iter_content(2**16):
        body += chunk
        if len(body) > MAX_BYTES:
            raise RequestError("the answer is larger than 1 MiB")
    return bytes(body), response.headers
