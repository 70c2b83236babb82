"""Which pages may call: the cross-site check of writes by cookie, and CORS for allowed origins (contract §5)."""

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import MethodNotAllowed

from app.answers import is_public
from app.problems import Problem
from app.service import current_service, service_of

# What a caller of this API sends and reads; the rest a browser allows by itself.
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Learner-Tag, X-Request-Id"
RESPONSE_HEADERS = "ETag, Retry-After, Idempotency-Key, Learner-Tag, X-Request-Id"


def check() -> None:
    """Raise Problem cross_site_request for a write by cookie that comes from another origin."""
    settings = current_service().settings
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if request.method in ("GET", "HEAD") or origin in settings.allowed_origins:
        return
    if site is not None:
        if site not in ("same-origin", "none"):
            raise Problem("cross_site_request")
    elif origin is not None and not _is_own(origin):  # of an older browser; without either, of no browser at all
        raise Problem("cross_site_request")


def _is_own(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if not parts.hostname:  # null, for one
        return False
    # The proxy in front may speak TLS where we do not, so that the scheme says nothing; a port that goes without saying
    # is the origin's.
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return (parts.hostname, port or default) in (_address(host, default) for host in _own_hosts())


def _own_hosts() -> Iterator[str]:
    yield request.headers.get("Host", "")
    if _is_from_trusted_proxy():
        # Each proxy of a chain appends the host that it was asked for. The browser asked the first proxy.
        yield request.headers.get("X-Forwarded-Host", "").partition(",")[0].strip()


def _is_from_trusted_proxy() -> bool:
    """Whether FORWARDED_ALLOW_IPS names the peer. gunicorn applies that setting to other headers only."""
    if request.remote_addr == "":  # a unix socket: the rights of its file say who may connect
        return True
    try:
        peer = ip_address(str(request.remote_addr))
    except ValueError:
        return False
    return any(peer in network for network in current_service().settings.forwarded_allow_ips)


def _address(host: str, default_port: int | None) -> tuple[str | None, int | None]:
    """Return the name and the port of a Host header; (None, None) for text that is none, such as `[::1`."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname, parts.port or default_port
    except ValueError:
        return None, None


def init_app(app: Flask) -> None:
    """Answer preflights, and tell browsers what pages of the allowed origins may read."""
    settings = service_of(app).settings
    if not settings.allowed_origins:
        return
    app.before_request(_preflight)
    app.after_request(_allow)


def _preflight() -> Response | None:
    missing = request.routing_exception
    if (
        request.method != "OPTIONS"
        or "Access-Control-Request-Method" not in request.headers
        or not _is_allowed()
        or not isinstance(missing, MethodNotAllowed)
    ):
        return None
    response = Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": ", ".join(sorted(missing.valid_methods or ())),
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": "600",
        },
    )
    del response.headers["Content-Type"]  # which would say that nothing is HTML
    return response


def _allow(response: Response) -> Response:
    # Public answers are the same for every origin, and so are unknown paths.
    if not request.path.startswith("/api/") or is_public():
        return response
    response.vary.add("Origin")
    if _is_allowed():
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Allow-Credentials"] = "true"
        response.headers["Access-Control-Expose-Headers"] = RESPONSE_HEADERS
    return response


def _is_allowed() -> bool:
    settings = current_service().settings
    return request.headers.get("Origin") in settings.allowed_origins and request.path.startswith("/api/")
