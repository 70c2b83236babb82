"""Sessions that the real Auth.js and NextAuth make (authjs/package.json has the versions), on a running gunicorn."""

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwe

from app.sessions.cookies import derive
from tests.world import LEARNER, STRANGER, add_user

FOLDER = Path(__file__).parent / "authjs"
SECRET = "the-site-s-own-AUTH_SECRET"
V5, V5_SECURE = "authjs.session-token", "__Secure-authjs.session-token"
V4, V4_SECURE = "next-auth.session-token", "__Secure-next-auth.session-token"


def made(version: int, name: str, /, secret: Any = SECRET, max_age: int = 3600, **claims: Any) -> dict[str, str]:
    """Return the cookies that the library sets for a session."""
    asked = {"version": version, "name": name, "secret": secret, "maxAge": max_age, "claims": {"sub": LEARNER} | claims}
    done = subprocess.run(
        ["node", "encode.mjs"], cwd=FOLDER, input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    cookies: dict[str, str] = json.loads(done.stdout)
    return cookies


def status(url: str, cookies: dict[str, str] | str) -> int:
    header = cookies if isinstance(cookies, str) else "; ".join(f"{name}={value}" for name, value in cookies.items())
    request = urllib.request.Request(f"{url}/api/progress/summary", headers={"Cookie": header})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture
def url(gunicorn, db):
    add_user(db)
    return gunicorn(AUTH_SECRET=f"a-newer-one,{SECRET}", AUTH_JWT_SECRET="", WEB_CONCURRENCY="1")


def test_the_session_that_the_library_made_is_a_session(url):
    profile: dict[str, Any] = {"name": "Ada Lovelace 🚀", "email": "ada@example.com", "picture": None}
    for version, name in ((5, V5), (5, V5_SECURE), (4, V4), (4, V4_SECURE)):
        assert status(url, made(version, name, **profile)) == 200
        assert status(url, made(version, name, "a-newer-one")) == 200
        # A session of a site that has rotated its secrets. In v5, the header names the key of the first secret.
        assert status(url, made(version, name, max_age=-60)) == 401
        assert status(url, made(version, name, "another-secret")) == 401
    assert status(url, made(5, V5, ["a-newer-one", SECRET])) == 200
    assert status(url, made(5, V5, [SECRET, "a-newer-one"])) == 200


def test_a_session_in_three_chunks_passes_gunicorn(url):
    for version, name in ((5, V5), (4, V4_SECURE)):
        cookies = made(version, name, permissions="x" * 7000)
        assert list(cookies) == [f"{name}.{number}" for number in range(3)]
        assert status(url, cookies) == 200
        assert status(url, dict(reversed(cookies.items()))) == 200
        cookies.popitem()
        assert status(url, cookies) == 401


def test_a_session_of_one_version_is_none_under_the_others_name(url):
    [token] = made(5, V5).values()
    assert [status(url, {name: token}) for name in (V5, V4, V5_SECURE)] == [200, 401, 401]
    [token] = made(4, V4).values()
    assert [status(url, {name: token}) for name in (V4, V4_SECURE, V5)] == [200, 200, 401]


def taken(asked: list[dict[str, Any]]) -> list[bool]:
    """Return for each Cookie header whether the library itself finds the learner's session in it."""
    lines = "\n".join(json.dumps(one) for one in asked)
    done = subprocess.run(["node", "read.mjs"], cwd=FOLDER, input=lines, capture_output=True, text=True, check=True)
    return [(json.loads(line) or {}).get("sub") == LEARNER for line in done.stdout.splitlines()]


NOW = int(time.time())
# Changes to the header that the library writes.
HEADERS: list[dict[str, Any]] = [
    {},
    {"typ": "JWT"},
    {"typ": "at+jwt", "cty": "JWT"},
    {"typ": 7, "cty": None, "x5c": "x", "jwk": 1, "b64": "no"},
    {"ours": {"deep": [1]}, "epk": {}, "apu": "x", "p2c": 10**9},
    {"crit": ["typ"], "typ": "JWT"},
    {"crit": ["exp"], "exp": 1},
    {"crit": []},
    {"crit": None},
    {"iss": "us"},
    {"sub": LEARNER},
    {"sub": STRANGER},
    {"aud": ["a"]},
    {"kid": "another"},
    {"kid": None},
    {"kid": ""},
    {"enc": "A128GCM"},
    {"enc": ""},
    {"alg": "none"},
]
# Changes to the claims. None means null.
CLAIMS: list[dict[str, Any]] = [
    {"exp": NOW + 60.5},
    {"exp": NOW - 60},
    {"exp": str(NOW + 60)},
    {"exp": None},
    {"nbf": NOW - 60},
    {"nbf": NOW + 3600},
    {"nbf": None},
    {"iat": NOW + 3600},
    {"iat": 0},
    {"iat": "today"},
    {"iat": None},
    {"iss": "us", "aud": "them", "jti": 7},
    {"sub": STRANGER},
]
# Forms of a Cookie header. {} is the name of the cookie. Angle brackets enclose a part of the session.
COOKIES = [
    "{}=<0:>",
    "a=b; {}=<0:>; c",
    "{}.0=<0:100>; {}.1=<100:>",
    "{}.1=<100:>; {}.0=<0:100>",
    "{}=; {}.0=<0:100>; {}.1=<100:>",
    "{}.0=<0:100>; {}.1=<100:>; {}.2=; {}.3=",
    "{}.0=; {}.1=<0:>",
    "{}.0=<0:100>; {}.2=<100:>",
    "{}.0=<0:100>; {}.1=<200:>",
    "{}.0=<0:100>",
    "{}.9=<0:100>; {}.10=<100:>",
    "{}=<0:>; {}.0=; {}.1=",
    "{}=<0:>; {}=nonsense",
    "{}=nonsense; {}=<0:>",
    "{}=; {}=<0:>",
    "{}=",
    "{}",
    "other=<0:>",
    "{}=<0:>x",
    "{}=<0:100>%2E<100:>",
]


def session(version: int, name: str, header: Any = None, claims: Any = None, without: str = "") -> str:
    """Return a session as the library makes it, with these changes.

    It is encrypted by hand (RFC 7516 §5.1), because no library writes such headers.
    """
    enc = "A256CBC-HS512" if version == 5 else "A256GCM"
    key, kid = derive(SECRET, name if version == 5 else None, 64 if version == 5 else 32)
    made = {"alg": "dir", "enc": enc} | ({"kid": kid} if version == 5 else {}) | (header or {})
    body = {"sub": LEARNER, "iat": NOW, "exp": NOW + 3600} | (claims or {})
    body.pop(without, None)
    protected = base64url(json.dumps(made).encode())
    model = jwe.JWERegistry.algorithms["enc"][enc]
    iv = model.generate_iv()
    ciphertext, tag = model.encrypt(json.dumps(body).encode(), key.raw_value, iv, protected)
    return b".".join([protected, b"", base64url(iv), base64url(ciphertext), base64url(tag)]).decode()


def base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def cut(form: str, name: str, value: str) -> str:
    """Put a session into the cookies of a form of COOKIES."""

    def part(match: re.Match[str]) -> str:
        start, end = match[1], match[2]
        return value[int(start) : int(end) if end else None]

    return re.sub(r"<(\d+):(\d*)>", part, form.replace("{}", name))


@pytest.mark.parametrize(("version", "name"), [(5, V5), (4, V4)])
def test_what_the_library_takes_is_taken_and_what_it_refuses_is_refused(url, version, name):
    sent = [
        *(f"{name}={session(version, name, header=header)}" for header in HEADERS),
        *(f"{name}={session(version, name, claims=claims)}" for claims in CLAIMS),
        *(cut(form, name, session(version, name)) for form in COOKIES),
    ]
    theirs = taken([{"version": version, "name": name, "secret": SECRET, "header": header} for header in sent])
    assert 10 < theirs.count(True) < len(sent) - 10
    words = [*map(str, HEADERS), *map(str, CLAIMS), *COOKIES]
    ours = [status(url, header) == 200 for header in sent]
    differ = {word: one for word, one, other in zip(words, ours, theirs, strict=True) if one != other}
    assert differ == {}


def test_a_session_must_end_and_a_whole_cookie_comes_before_what_has_a_longer_name(url):
    """In these two points the service differs from the library on purpose."""

    def both(version: int, name: str, header: str) -> tuple[bool, bool]:
        [theirs] = taken([{"version": version, "name": name, "secret": SECRET, "header": header}])
        return theirs, status(url, header) == 200

    for version, name in ((5, V5), (4, V4)):
        assert both(version, name, f"{name}={session(version, name, without='exp')}") == (True, False)
        good = session(version, name)
        assert both(version, name, f"{name}={good}; {name}.0=stale") == (False, True)
        assert both(version, name, f"{name}={good}; {name}-another=x") == (False, True)
