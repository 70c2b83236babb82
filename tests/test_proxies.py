"""Contract §5: the host that a proxy was asked for is an own origin, if FORWARDED_ALLOW_IPS names the proxy."""

import http.client
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import running_gunicorn
from tests.world import SECRET, add_module, add_user, assert_problem, bearer, cookie, lesson_path

PAGE = "https://www.example.org"
WRITE = lesson_path(2)
# The headers that the rewrites of a site send. The host of the service is not the host of the page.
FORWARDED = {"Host": "progress.internal:8000", "Origin": PAGE, "X-Forwarded-Host": "www.example.org"}


@pytest.fixture
def world(db: psycopg.Connection) -> None:
    add_user(db)
    add_module(db, 1, 2)


@pytest.mark.parametrize(
    ("setting", "peer", "passes"),
    [
        ("", "127.0.0.1", True),
        ("", "127.0.0.2", False),
        ("", "::1", False),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.70", False),
        ("10.0.0.7", "127.0.0.1", False),
        ("10.0.0.0/8, ::1", "10.255.255.255", True),
        ("10.0.0.0/8, ::1", "11.0.0.0", False),
        ("10.0.0.0/8, ::1", "::1", True),
        ("10.0.0.0/8, ::1", "::2", False),
        ("fd00::/8", "fdff::1", True),
        ("fd00::/8", "10.0.0.1", False),
        # An IPv6 socket shows an IPv4 peer in this form.
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:11.1.2.3", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("*", "203.0.113.9", True),
        ("*", "2001:db8::1", True),
        ("*", "fe80::1%eth0", True),
        ("10.0.0.1", "", True),  # the peer of a Unix socket has no address
        ("*", "nonsense", False),
        ("*", None, False),
    ],
)
def test_the_forwarded_host_is_an_own_origin_only_from_a_proxy_that_is_named(make_api, world, setting, peer, passes):
    api = make_api(AUTH_SECRET=SECRET, FORWARDED_ALLOW_IPS=setting)
    environ = {"REMOTE_ADDR": peer}
    for method in ("POST", "DELETE"):
        answer = api.open(WRITE, method=method, headers=cookie() | FORWARDED, environ_overrides=environ)
        if passes:
            assert answer.status_code == 200
        else:
            assert_problem(answer, "cross_site_request")
    # A page of the request's own host may always write, whatever peer sends the request.
    own = cookie() | FORWARDED | {"Origin": "https://progress.internal:8000"}
    assert api.post(WRITE, headers=own, environ_overrides=environ).status_code == 200


@pytest.mark.parametrize(
    ("forwarded", "origin", "passes"),
    [
        ("www.example.org", PAGE, True),
        ("WWW.example.org", PAGE, True),
        ("www.example.org:443", PAGE, True),
        ("www.example.org:443", "http://www.example.org", False),
        ("www.example.org:3000", "http://www.example.org:3000", True),
        ("www.example.org", "http://www.example.org:3000", False),
        ("[::1]:3000", "http://[::1]:3000", True),
        ("www.example.org, evil.example", PAGE, True),
        ("www.example.org,evil.example", "https://evil.example", False),
        ("evil.example, www.example.org", PAGE, False),
        (" , www.example.org", PAGE, False),
        ("www.example.org", "null", False),
        ("null", "null", False),
        ("www.example.org", "", False),
        ("", "", False),
        ("", PAGE, False),
        ("https://www.example.org", PAGE, False),
        ("[::1", PAGE, False),
        ("www.example.org:port", PAGE, False),
        ("[x]", "https://[x]", False),
        (None, "https://xxxx", False),
    ],
)
def test_the_first_forwarded_host_is_compared_with_the_origin(make_api, world, forwarded, origin, passes):
    api = make_api(AUTH_SECRET=SECRET)
    headers = cookie() | FORWARDED | {"X-Forwarded-Host": forwarded, "Origin": origin}
    answer = api.post(WRITE, headers={name: value for name, value in headers.items() if value is not None})
    if passes:
        assert answer.status_code == 200
    else:
        assert_problem(answer, "cross_site_request")


def test_what_the_browser_says_of_the_origin_comes_before_the_forwarded_host(make_api, world):
    api = make_api(AUTH_SECRET=SECRET)
    for site, status in (("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)):
        headers = cookie() | FORWARDED | {"Sec-Fetch-Site": site}
        assert api.post(WRITE, headers=headers).status_code == status
        # The same without X-Forwarded-Host: it is not needed if the browser sends Sec-Fetch-Site.
        del headers["X-Forwarded-Host"]
        assert api.post(WRITE, headers=headers).status_code == status


def call(url: str, method: str, path: str, *headers: tuple[str, str]) -> tuple[int, str | None, bytes]:
    """Return the status, the content type and the body of an answer. A header may be given twice."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()


@pytest.fixture(scope="module")
def behind_proxy(environ) -> Iterator[str]:
    """Yield the URL of a running service that takes every caller on this machine for a proxy."""
    settings = {"AUTH_SECRET": SECRET, "FORWARDED_ALLOW_IPS": "127.0.0.0/8", "METRICS": "on", "WEB_CONCURRENCY": "1"}
    with running_gunicorn(environ | settings) as service:
        yield service.url


def test_forged_headers_make_no_own_origin_through_a_running_gunicorn(gunicorn, behind_proxy, world):
    forged = [
        ("X-Forwarded-Host", "www.example.org"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=10.0.0.1;host=www.example.org;proto=https"),
        ("X-Real-IP", "10.0.0.1"),
        ("REMOTE_ADDR", "10.0.0.1"),
        ("Remote-Addr", "10.0.0.1"),
    ]
    sent = [*cookie().items(), ("Host", "progress.internal"), ("Origin", PAGE), *forged]
    no_proxy = gunicorn(AUTH_SECRET=SECRET, WEB_CONCURRENCY="1", FORWARDED_ALLOW_IPS="10.0.0.1")
    assert call(no_proxy, "POST", WRITE, *sent)[0] == 403
    assert call(no_proxy, "POST", WRITE, *sent, ("X-Forwarded-Host", "www.example.org"))[0] == 403
    assert call(behind_proxy, "POST", WRITE, *sent)[0] == 200
    # gunicorn joins two headers of one name with a comma. The service uses the first value.
    assert call(behind_proxy, "POST", WRITE, *sent, ("X-Forwarded-Host", "evil.example"))[0] == 200
    evil = [header for header in sent if header[0] != "Origin"] + [("Origin", "https://evil.example")]
    assert call(behind_proxy, "POST", WRITE, *evil, ("X-Forwarded-Host", "evil.example"))[0] == 403
    # A name with underscores is another header. gunicorn would take it for this one only with another `header_map`.
    underscore = [("X_Forwarded_Host" if name == "X-Forwarded-Host" else name, value) for name, value in sent]
    assert call(behind_proxy, "POST", WRITE, *underscore)[0] == 403


def test_no_header_of_a_client_behind_a_proxy_changes_the_path(behind_proxy, world):
    """A proxy that hides /metrics sees /api/progress/metrics, and may pass SCRIPT_NAME on."""
    host = ("Host", "www.example.org")
    for name in ("SCRIPT_NAME", "Script-Name", "PATH_INFO"):
        status, kind, body = call(behind_proxy, "GET", "/api/progress/metrics", host, (name, "/api/progress"))
        assert (status, kind) == (404, "application/problem+json"), body
        session = ("Authorization", bearer()["Authorization"])
        assert call(behind_proxy, "GET", "/api/progress/summary", host, session, (name, "/other"))[0] == 200
