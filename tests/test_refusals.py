"""Why a session is refused: the log names the cause, the caller gets a short answer, and neither has the session."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from joserfc import jwe

from app.logs import JsonFormatter
from app.sessions import cookies
from app.sessions.refusals import NO_SESSION, REASONS
from tests.conftest import SERVICE
from tests.test_cookies import V4, V5, value
from tests.test_jwks import EC, OTHER_RSA, RSA, Provider
from tests.world import LEARNER, SECRET, add_user, assert_problem, bearer, cookie, token

GET = "/api/progress/summary"
OTHER_SECRET = "another secret of the tests that is as long"


def by_cookie(value: str, name: str = V5) -> dict[str, str]:
    return {"Cookie": f"{name}={value}"}


def by_token(**made: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**made)}"}


def encrypted(body: bytes) -> str:
    """Return a session with this content, encrypted with the right secret."""
    key, kid = cookies.derive(SECRET, V5, 64)
    header = {"alg": "dir", "enc": "A256CBC-HS512", "kid": kid}
    return jwe.encrypt_compact(header, body, key, algorithms=["dir", "A256CBC-HS512"])


def replaced(session: str, **header: Any) -> str:
    """Return a session with these members of its header replaced."""
    parts = session.split(".")
    made = json.loads(base64.urlsafe_b64decode(parts[0] + "==")) | header
    parts[0] = base64.urlsafe_b64encode(json.dumps(made).encode()).decode().rstrip("=")
    return ".".join(parts)


NOW = int(time.time())

# For each service that the fixture `service` makes: the headers that are sent, and the reason that the log must have.
CASES: dict[str, list[tuple[dict[str, str], str]]] = {
    "AUTH_SECRET": [
        ({}, NO_SESSION),
        ({"Cookie": "theme=dark"}, NO_SESSION),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, NO_SESSION),
        (cookie(secret="not-the-site-s"), "cookie: wrong secret"),
        (by_cookie(value(V5), "__Secure-" + V5), "cookie: wrong secret"),
        (by_cookie(value(V4)), "cookie: wrong secret"),
        (by_cookie(value(V5), V4), "cookie: wrong encryption"),
        (by_cookie(replaced(value(V5), zip="DEF")), "cookie: wrong encryption"),
        (by_cookie(replaced(value(V5), alg="A256KW")), "cookie: wrong encryption"),
        (by_cookie("a.b.c.d.e"), "cookie: malformed"),
        (by_cookie(encrypted(b"no JSON")), "cookie: malformed"),
        (by_cookie("a.b"), "cookie: malformed"),
        (cookie(exp=1), "cookie: expired"),
        (cookie(nbf=NOW + 3600), "cookie: not yet valid"),
        (cookie(exp=None), "cookie: missing claim: exp"),
        (cookie(None), "cookie: missing claim: sub"),
        (cookie(exp="soon"), "cookie: unusable claim: exp"),
        (cookie(True), "cookie: unusable claim: sub"),
        (cookie(7), "cookie: not a UUID"),
        (cookie("clx1a2b3c"), "cookie: not a UUID"),
        (by_cookie("8f14e45f-ceea-467f-a9d6-3b0c8b1d2e4f"), "cookie: no session table is set"),
        (by_cookie(token()), "cookie: no key is set"),
        (bearer(), "token: no key is set"),
    ],
    "AUTH_JWT_SECRET": [
        (by_cookie(value(V5)), "cookie: no secret is set"),
        (by_token(key=OTHER_SECRET), "token: wrong signature"),
        (by_cookie(token(key=OTHER_SECRET)), "cookie: wrong signature"),
        (by_token(key=RSA, algorithm="RS256"), "token: wrong algorithm"),
        (by_token(exp=1), "token: expired"),
        (by_token(nbf=NOW + 3600), "token: not yet valid"),
        (by_token(iat=NOW + 3600), "token: not yet valid"),
        (by_token(exp=None), "token: missing claim: exp"),
        (by_token(sub=None), "token: missing claim: sub"),
        (by_token(exp=str(NOW + 3600)), "token: unusable claim: exp"),
        (by_token(sub=True), "token: unusable claim: sub"),
        (by_token(sub=7), "token: not a UUID"),
        (by_token(aud="another"), "token: wrong audience"),
        (by_token(sub="auth0|7"), "token: not a UUID"),
        (by_token(padding="x" * 8192), "token: too long"),
        ({"Authorization": "Bearer undefined"}, "token: malformed"),
        ({"Authorization": f"Bearer {value(V5)}"}, "token: malformed"),
    ],
    "AUTH_JWT_AUDIENCE": [
        (by_token(iss="https://issuer.example"), "token: missing claim: aud"),
        (by_token(iss="https://issuer.example", aud="another"), "token: wrong audience"),
        (by_token(aud="progress"), "token: missing claim: iss"),
        (by_token(aud="progress", iss="https://another.example"), "token: wrong issuer"),
    ],
    "AUTH_USER_ID_NAMESPACE": [
        (by_token(sub="x" * 256), "token: unusable user id"),
        (by_token(sub=""), "token: unusable user id"),
        (by_token(sub=1.5), "token: unusable claim: sub"),
    ],
    "AUTH_JWKS_URL": [
        (by_token(key=EC, algorithm="ES256", headers={"kid": "two"}), "token: unknown kid"),
        (by_token(key=OTHER_RSA, algorithm="RS256", headers={"kid": "one"}), "token: wrong signature"),
        (by_token(), "token: wrong algorithm"),
        ({"Authorization": "Bearer undefined"}, "token: malformed"),
    ],
    "AUTH_SESSION_TABLE": [
        (by_cookie("ended"), "cookie: no such database session"),
        (by_cookie("never-was"), "cookie: no such database session"),
        (by_cookie("%00"), "cookie: no such database session"),
        (by_cookie("numbered"), "cookie: not a UUID"),
    ],
}


@pytest.fixture
def service(make_api, db: psycopg.Connection) -> Callable[[str], FlaskClient]:
    """Return a function that makes a service with one way of signing in."""
    add_user(db)

    def make(name: str) -> FlaskClient:
        settings: dict[str, str] = {
            "AUTH_SECRET": {"AUTH_SECRET": f"a-newer-one,{SECRET}"},
            "AUTH_JWT_SECRET": {"AUTH_JWT_SECRET": SECRET},
            "AUTH_JWT_AUDIENCE": {
                "AUTH_JWT_SECRET": SECRET,
                "AUTH_JWT_AUDIENCE": "progress",
                "AUTH_JWT_ISSUER": "https://issuer.example",
            },
            "AUTH_USER_ID_NAMESPACE": {"AUTH_JWT_SECRET": SECRET, "AUTH_USER_ID_NAMESPACE": LEARNER},
            "AUTH_SESSION_TABLE": {"AUTH_SESSION_TABLE": "sessions"},
            "AUTH_JWKS_URL": {},
        }[name]
        made: FlaskClient = make_api(**({"AUTH_JWT_SECRET": ""} | settings))
        return made

    return make


@pytest.mark.parametrize("name", CASES)
def test_the_log_tells_why_a_session_is_refused_and_nothing_of_the_session(service, make_api, db, caplog, name):
    provider = None
    try:
        if name == "AUTH_SESSION_TABLE":
            db.execute('create table sessions ("sessionToken" text, "userId" text, expires timestamptz)')
            db.execute(f"grant select on sessions to {SERVICE}")
            db.execute("insert into sessions values ('ended', %s, now()), ('numbered', '7', 'infinity')", [LEARNER])
        if name == "AUTH_JWKS_URL":
            provider = Provider()
            api = make_api(AUTH_JWT_SECRET="", AUTH_JWKS_URL=provider.url)
        else:
            api = service(name)
        for headers, reason in CASES[name]:
            caplog.clear()
            with caplog.at_level("INFO", "progress.requests"):
                answer = api.get(GET, headers=headers)
            assert_problem(answer, "unauthenticated")
            [line] = [JsonFormatter().format(record) for record in caplog.records]
            assert json.loads(line)["error"] == reason
            for sent in headers.values():
                secret = sent.partition("=" if "Cookie" in headers else " ")[2]
                assert secret not in line
                assert secret not in answer.text
            word = reason.partition(": ")[2].partition(": ")[0]
            if word:
                assert answer.json["detail"] == REASONS[word]
                assert answer.headers["WWW-Authenticate"] == (
                    f'Bearer realm="progress", error="invalid_token", error_description="{REASONS[word]}"'
                )
    finally:
        db.execute("drop table if exists sessions")
        if provider:
            provider.die()


def test_every_reason_is_tried():
    tried = {reason.partition(": ")[2].partition(": ")[0] for cases in CASES.values() for _, reason in cases}
    assert tried - {""} == set(REASONS)


def test_the_caller_is_told_to_sign_in_again_only_where_that_helps():
    others = {reason: detail for reason, detail in REASONS.items() if not detail.endswith("Sign in again.")}
    assert set(others) == {"too long", "not yet valid", "not a UUID", "unusable user id"}
    assert all(detail.isascii() and '"' not in detail for detail in REASONS.values())
