"""Sessions made by the real Auth.js and NextAuth, pinned in authjs/package.json, on a running gunicorn."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.world import LEARNER, add_user

FOLDER = Path(__file__).parent / "authjs"
SECRET = "the-site-s-own-AUTH_SECRET"
V5, V5_SECURE = "authjs.session-token", "__Secure-authjs.session-token"
V4, V4_SECURE = "next-auth.session-token", "__Secure-next-auth.session-token"


def made(version: int, name: str, /, secret: Any = SECRET, max_age: int = 3600, **claims: Any) -> dict[str, str]:
    """The cookies that the library sets for a session."""
    asked = {"version": version, "name": name, "secret": secret, "maxAge": max_age, "claims": {"sub": LEARNER} | claims}
    done = subprocess.run(
        ["node", "encode.mjs"], cwd=FOLDER, input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    cookies: dict[str, str] = json.loads(done.stdout)
    return cookies


def status(url: str, cookies: dict[str, str], method: str = "GET") -> int:
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    request = urllib.request.Request(f"{url}/api/progress/summary", headers={"Cookie": header}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
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
        # Made by a site that has rotated: v5 names the key of its first secret.
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
