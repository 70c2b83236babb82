"""Contract §5, items 2 and 3: the cookies that Auth.js writes, its database sessions, and who may write by cookie."""

import base64
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from joserfc import jwe
from joserfc.registry import HeaderParameter
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.application import create_app
from app.database import readiness
from app.database.readiness import NotReadyError
from app.database.statements import SQL
from app.demo.postgres import bindir
from app.service import service_of
from app.sessions import cookies
from app.settings import Settings, SettingsError, from_environ
from tests.calls import PREFIX, calls
from tests.conftest import SERVICE, as_service
from tests.test_statements import header
from tests.world import (
    LEARNER,
    SECRET,
    STRANGER,
    add_module,
    add_user,
    assert_problem,
    bearer,
    cookie,
    token,
    uuid4,
)

# Made by @auth/core 0.41.3 (next-auth 5.0.0-beta.32), @auth/core 0.18 and 0.20, and next-auth 4.24.15.
VECTORS = json.loads((Path(__file__).parent / "authjs_vectors.json").read_text())
VECTOR_LEARNER = "6f9619ff-8b86-4d11-b42d-00c04fc964ff"
GET = "/api/progress/summary"
WRITE = f"/api/progress/lessons/{uuid4(1)}"


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    add_user(db)
    add_user(db, VECTOR_LEARNER)
    add_module(db, 1, 1)
    return db


def expected(case: dict[str, Any]) -> list[int]:
    return case["expect"] if isinstance(case["expect"], list) else [case["expect"]]


@pytest.fixture
def at_time(monkeypatch):
    def set_clock(case: dict[str, Any]) -> None:
        if case.get("clock") == "now":
            monkeypatch.setattr("app.sessions.cookies.time.time", lambda: case["now"])

    return set_clock


@pytest.mark.parametrize("case", VECTORS["vectors"], ids=lambda case: case["name"])
def test_a_session_of_the_real_library_is_what_it_is(make_api, world, at_time, case):
    api = make_api(AUTH_SECRET=",".join(case["secrets"]), AUTH_JWT_SECRET="", **case.get("settings", {}))
    headers = {"Cookie": f"{case['cookie_name']}={case['token']}"}
    at_time(case)
    answer = api.get(GET, headers=headers)
    assert answer.status_code in expected(case)
    if answer.status_code == 401:
        assert_problem(answer, "unauthenticated")
        invalid = answer.headers["WWW-Authenticate"].startswith('Bearer realm="progress", error="invalid_token"')
        assert invalid == bool(case["token"])  # an empty cookie counts as absent


@pytest.mark.parametrize("case", VECTORS["cookie_sets"], ids=lambda case: case["name"])
def test_chunks_are_joined_as_the_library_cut_them(make_api, world, case):
    api = make_api(AUTH_SECRET=",".join(case["secrets"]))
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in case["cookies"])}
    assert api.get(GET, headers=headers).status_code in expected(case)


def test_the_vectors_pass_through_a_running_gunicorn(gunicorn, world):
    def status(url: str, cookie: str) -> int:
        request = urllib.request.Request(url + GET, headers={"Cookie": cookie})
        try:
            with urllib.request.urlopen(request) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    cases = [
        *((case, f"{case['cookie_name']}={case['token']}") for case in VECTORS["vectors"]),
        *((case, "; ".join(f"{name}={value}" for name, value in case["cookies"])) for case in VECTORS["cookie_sets"]),
    ]
    # All vectors that need no setting but this one secret. What gunicorn does with a cookie depends on no setting.
    secrets = VECTORS["vectors"][0]["secrets"]
    url = gunicorn(AUTH_SECRET=",".join(secrets), AUTH_JWT_SECRET="", WEB_CONCURRENCY="1")
    sent_cases = [
        (case, sent)
        for case, sent in cases
        if "clock" not in case and sent.isascii() and case["secrets"] == secrets and not case.get("settings")
    ]
    assert len(sent_cases) > 70
    for case, sent in sent_cases:
        assert status(url, sent) in expected(case), case["name"]


def test_the_keys_are_those_that_the_libraries_derive():
    for vector in VECTORS["keys"]:
        key, kid = cookies.derive(vector["secret"], vector["salt"] or None, vector["length"])
        assert key.raw_value.hex() == vector["key_hex"]
        assert vector["kid"] in (kid, None)


V5, V5_SECURE = "authjs.session-token", "__Secure-authjs.session-token"
V4, V4_SECURE = "next-auth.session-token", "__Secure-next-auth.session-token"


def value(name: str, **claims: Any) -> Any:
    if name in cookies.V5:
        return cookie(name=name, **claims)["Cookie"].partition("=")[2]
    key, _ = cookies.derive(SECRET, None, 32)
    now = int(time.time())
    body = json.dumps({"sub": LEARNER, "iat": now, "exp": now + 3600} | claims).encode()
    return jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, body, key, algorithms=["dir", "A256GCM"])


@pytest.mark.parametrize(
    ("first", "second"), [(V5_SECURE, V5), (V5, V4_SECURE), (V5, V4), (V4_SECURE, V4), (V5_SECURE, V4)]
)
def test_the_first_name_that_is_there_decides_and_no_other_is_read(make_api, world, first, second):
    api = make_api(AUTH_SECRET=SECRET)
    for good, bad in ((first, second), (second, first)):
        for order in ([good, bad], [bad, good]):
            header = "; ".join(f"{name}={value(name) if name == good else 'nonsense'}" for name in order)
            assert api.get(GET, headers={"Cookie": header}).status_code == (200 if good == first else 401)


def test_a_cookie_of_the_exact_name_comes_before_chunks_and_chunks_before_the_next_name(make_api, world):
    api = make_api(AUTH_SECRET=SECRET)
    good = value(V5)
    for sent, status in [
        (f"{V5}.0=nonsense; {V5}={good}", 200),
        (f"{V5}.0={good}; {V5}=nonsense", 401),
        (f"{V5}.0={good[:100]}; {V5}.1={good[100:]}; {V4}=nonsense", 200),
        (f"{V5_SECURE}.0=nonsense; {V5}={good}", 401),
        (f"{V5}.1={good}", 200),
        (f"{V5}.0={good[:100]}; {V5}.2={good[100:]}", 200),
        (f"{V5}.0={good[:100]}; {V5}.2={good[200:]}", 401),
        (f"{V5}.10={good[100:]}; {V5}.9={good[:100]}", 200),
        (f"{V5}.00={good}", 401),
        (f"{V5}.{'9' * 5000}={good}", 401),
        (f"{V5}.0={good[:9]}; {V5}.1={good[9:]}; {V5}.100=x", 200),
        (f"{V5}={good}; {V5}=nonsense", 200),
        (f"{V5}=nonsense; {V5}={good}", 401),
        (f'{V5}="{good}"', 200),
        (f"other={good}", 401),
    ]:
        assert api.get(GET, headers={"Cookie": sent}).status_code == status, sent[:60]


def test_an_empty_cookie_is_as_if_absent(make_api, world):
    api = make_api(AUTH_SECRET=SECRET)
    good = value(V5)
    for sent in [
        f"{V5}=; {V5}.0={good[:100]}; {V5}.1={good[100:]}",
        f"{V5}.0={good[:100]}; {V5}.1={good[100:]}; {V5}.2=",
        f"{V5}.0={good[:100]}; {V5}.1=; {V5}.2={good[100:]}",
        f"{V5}={good}; {V5}.0=; {V5}.1=",
        f"{V5_SECURE}=; {V5}={good}",
        f'{V5_SECURE}=""; {V5_SECURE}.0=; {V5}={good}',
        f"{V5}=; {V4}={value(V4)}",
        f"{V5_SECURE}; {V5}={good}",
    ]:
        assert api.get(GET, headers={"Cookie": sent}).status_code == 200, sent[:60]
    for sent in [f"{V5}=", f'{V5}=""; {V5}.0=', f"{V5}; {V4}=", ""]:
        answer = api.get(GET, headers={"Cookie": sent})
        assert_problem(answer, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="progress"'
    # Of two cookies with one name the first one counts, even if it is empty.
    assert_problem(api.get(GET, headers={"Cookie": f"{V5}=; {V5}={good}"}), "unauthenticated")


def test_a_percent_encoded_session_is_the_same_session(make_api, world):
    api = make_api(AUTH_SECRET=SECRET)
    assert api.get(GET, headers={"Cookie": f"{V5}={value(V5).replace('.', '%2E')}"}).status_code == 200


def calls_made(header: str, settings: Settings) -> int:
    """Return how many functions run to read the cookies of a header."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        cookies.find(header, settings)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(
    ("start", "most"), [("a", 3), (f"{V5}.", 3), (f"{V5}x", 3), (f"{V4}.0", 3), ("a.b.c.", 3), (f"{V5}.7=x; b", 14)]
)
def test_each_cookie_costs_the_same_few_steps_however_many_there_are(environ, start, most):
    settings = from_environ(environ | {"AUTH_SECRET": SECRET})
    many, twice, thrice = (
        calls_made("; ".join(f"{start}{1000 + n}=" for n in range(count)), settings) for count in (500, 1000, 1500)
    )
    assert thrice - twice == twice - many <= 500 * most


def test_a_renamed_cookie_is_the_only_one_that_is_read(make_api, world):
    api = make_api(AUTH_SECRET=SECRET, AUTH_COOKIE_NAME="__Host-session")
    assert api.get(GET, headers=cookie(name="__Host-session")).status_code == 200
    assert_problem(api.get(GET, headers=cookie()), "unauthenticated")
    # In NextAuth v4 the key does not depend on the name of the cookie.
    assert api.get(GET, headers={"Cookie": f"__Host-session={value(V4)}"}).status_code == 200


def test_the_user_id_may_be_in_another_claim(make_api, world):
    api = make_api(AUTH_SECRET=SECRET, AUTH_USER_ID_CLAIM="userId")
    assert api.get(GET, headers=cookie("github|1", userId=LEARNER)).status_code == 200
    assert api.get(GET, headers=cookie(LEARNER)).status_code == 401


@pytest.mark.parametrize("name", [V5, V4])
def test_any_of_several_secrets_decrypts(make_api, world, name):
    api = make_api(AUTH_SECRET=f"another-secret, {SECRET}")
    assert api.get(GET, headers={"Cookie": f"{name}={value(name)}"}).status_code == 200
    assert (
        make_api(AUTH_SECRET="another-secret").get(GET, headers={"Cookie": f"{name}={value(name)}"}).status_code == 401
    )


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"exp": -14}, 200),
        ({"exp": -15}, 401),
        ({"nbf": 15}, 200),
        ({"nbf": 16}, 401),
        ({"iat": 15}, 200),
        ({"iat": 16}, 200),  # the clock of the site may be ahead, and Auth.js does not check this claim
        ({"exp": "soon"}, 401),
        ({"exp": "4000000000"}, 401),
        ({"exp": True}, 401),
        ({"exp": float("inf")}, 200),
        ({"exp": float("nan")}, 401),
        ({"nbf": float("nan")}, 401),
        ({"exp": 3600.5}, 200),
        ({"iat": None}, 200),
        ({"exp": None}, 401),
    ],
    ids=str,
)
def test_the_times_of_a_session_with_fifteen_seconds_of_tolerance(make_api, world, monkeypatch, claims, status):
    api = make_api(AUTH_SECRET=SECRET)
    now = int(time.time())
    monkeypatch.setattr("app.sessions.cookies.time.time", lambda: now)
    moved = {
        name: now + value if type(value) in (int, float) and value == value and abs(value) < 4000 else value
        for name, value in claims.items()
    }
    assert api.get(GET, headers=cookie(**moved)).status_code == status


def encrypted(header: dict[str, Any], body: bytes = b"{}") -> str:
    """Return a valid v5 session with this header in place of its own. Its authentication tag is then wrong."""
    parts = value(V5).split(".")
    parts[0] = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return ".".join(parts)


HOSTILE = {
    "gigantic": "a" * 40_000,
    "gigantic with dots": ".".join(["a" * 8_000] * 5),
    "many dots": "." * 20_000,
    "deep header": base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".a.b.c.d",
    "compressed": encrypted({"alg": "dir", "enc": "A256CBC-HS512", "zip": "DEF"}),
    "critical": encrypted({"alg": "dir", "enc": "A256CBC-HS512", "crit": ["exp"]}),
    "long kid": encrypted({"alg": "dir", "enc": "A256CBC-HS512", "kid": "k" * 4096}),
    "password": encrypted({"alg": "PBES2-HS512+A256KW", "enc": "A256CBC-HS512", "p2c": 10**9}),
    "public key": encrypted({"alg": "RSA-OAEP", "enc": "A256CBC-HS512"}),
    "algorithm of no text": encrypted({"alg": ["dir"], "enc": "A256CBC-HS512"}),
    "encryption of no text": encrypted({"alg": "dir", "enc": ["A256CBC-HS512"]}),
    "another encryption": encrypted({"alg": "dir", "enc": "A128CBC-HS256"}),
    "key id of no text": encrypted({"alg": "dir", "enc": "A256CBC-HS512", "kid": 1}),
    "number": "1",
    "dots": "....",
    "signed": "a.b.c",
    "not ASCII": "\xff\xfe.\xff.\xff.\xff.\xff",
    "quotes": '"' * 50,
    "percent": "%00%ff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_cookie_is_401(make_api, world, name):
    api = make_api(AUTH_SECRET=SECRET)
    for cookie_name in (V5, V4, f"{V5}.0"):
        assert_problem(api.get(GET, headers={"Cookie": f"{cookie_name}={HOSTILE[name]}"}), "unauthenticated")


@pytest.mark.parametrize(
    ("name", "salt", "header", "status"),
    [
        (V5, V5, {"alg": "dir", "enc": "A256CBC-HS512"}, 200),
        (V5, V5, {"alg": "dir", "enc": "A256GCM"}, 200),
        (V4, None, {"alg": "dir", "enc": "A256GCM"}, 200),
        (V5, V5, {"alg": "dir", "enc": "A256CBC-HS512", "zip": "DEF"}, 401),
        (V5, V5, {"alg": "dir", "enc": "A256CBC-HS512", "crit": ["typ"], "typ": "JWT"}, 401),
        (V5, V5, {"alg": "dir", "enc": "A256CBC-HS512", "typ": "JWT", "cty": "JWT", "x5u": "", "ours": {}}, 200),
        (V4, None, {"alg": "dir", "enc": "A256GCM", "typ": "JWT", "cty": "JWT", "kid": "7"}, 200),
        (V5, V5, {"alg": "dir", "enc": "A256CBC-HS512", "sub": LEARNER}, 200),
        (V5, V5, {"alg": "dir", "enc": "A256CBC-HS512", "sub": STRANGER}, 401),
        (V5, V5, {"alg": "A256KW", "enc": "A256GCM"}, 401),
        (V4, None, {"alg": "A256KW", "enc": "A256GCM"}, 401),
        (V5, None, {"alg": "dir", "enc": "A256GCM"}, 401),
        (V4, V4, {"alg": "dir", "enc": "A256GCM"}, 401),
        (V4, V4, {"alg": "dir", "enc": "A256CBC-HS512"}, 401),
    ],
    ids=str,
)
def test_only_what_the_library_of_a_cookie_writes_is_decrypted_though_the_secret_is_right(
    make_api, world, name, salt, header, status
):
    key, _ = cookies.derive(SECRET, salt, 64 if header["enc"] == "A256CBC-HS512" else 32)
    now = int(time.time())
    body = json.dumps({"sub": LEARNER, "iat": now, "exp": now + 3600}).encode()
    # joserfc must write these headers unchanged, although it would refuse some of them.
    lenient = {name: HeaderParameter("any", lambda _: None) for name in header}
    registry = jwe.JWERegistry(lenient, ["dir", "A256KW", header["enc"], "DEF"], strict_check_header=False)
    session = jwe.encrypt_compact(header, body, key, registry=registry)
    assert make_api(AUTH_SECRET=SECRET).get(GET, headers={"Cookie": f"{name}={session}"}).status_code == status


def test_a_cookie_is_found_with_its_name(environ):
    settings = from_environ(environ)
    assert cookies.find(f"{V5}=a=b=", settings) == (V5, "a=b=")
    assert cookies.find(f"{V5}.1=b; {V5}.0=a", settings) == (V5, "ab")
    assert cookies.find("other=a", settings) is None


def test_a_signed_jwt_in_the_cookie_follows_the_bearer_tokens_rules_but_is_a_cookie(make_api, world):
    api = make_api()
    assert api.get(GET, headers={"Cookie": f"{V5}={token()}"}).status_code == 200
    assert api.get(GET, headers={"Cookie": f"{V5}={token(exp=1)}"}).status_code == 401
    assert api.get(GET, headers={"Cookie": f"{V5}={token(padding='x' * 8200)}"}).status_code == 401
    foreign = {"Cookie": f"{V5}={token()}", "Sec-Fetch-Site": "cross-site"}
    assert_problem(api.post(WRITE, headers=foreign), "cross_site_request")
    # AUTH_SECRET encrypts cookies. A token that is signed with it is not valid.
    api = make_api(AUTH_SECRET=SECRET, AUTH_JWT_SECRET="")
    assert api.get(GET, headers={"Cookie": f"{V5}={token()}"}).status_code == 401


def test_a_bad_token_is_401_even_with_a_good_cookie(make_api, world):
    api = make_api(AUTH_SECRET=SECRET)
    for authorization in ("Bearer nonsense", "Bearer", f"bearer {token(exp=1)}"):
        assert_problem(api.get(GET, headers=cookie() | {"Authorization": authorization}), "unauthenticated")
    # Another scheme, for instance a proxy's Basic, is ignored.
    assert api.get(GET, headers=cookie() | {"Authorization": "Basic dXNlcjpwYXNz"}).status_code == 200
    # With a valid token, the cookie is not read.
    assert api.get(GET, headers=bearer() | {"Cookie": f"{V5}=nonsense"}).status_code == 200


def test_each_way_of_signing_in_gets_the_same_answers(make_api, world, sessions):
    sessions('create table "Session" ("sessionToken" text primary key, "userId" uuid, "expires" timestamptz)')
    world.execute("insert into \"Session\" values ('opaque', %s, now() + '1 hour')", [LEARNER])
    api = make_api(AUTH_SECRET=SECRET, AUTH_SESSION_TABLE='"Session"')
    ways: list[dict[str, str]] = [bearer(), cookie(), {"Cookie": f"{V5}=opaque"}, {"Cookie": f"{V4}={value(V4)}"}]
    # sorted() puts DELETE before POST, so the first POST stores a mark.
    for method, path in sorted(calls()):
        answers = [api.open(PREFIX + path, method=method, headers=headers) for headers in ways]
        # Only the time of an export differs.
        same = {(answer.status_code, re.sub(rb'"exportedAt" : "[^"]*"', b"", answer.data)) for answer in answers}
        assert len(same) == 1, path
    for bad in ({}, {"Authorization": "Bearer x"}, {"Cookie": f"{V5}=x"}, {"Cookie": f"{V4}=a.b.c.d.e"}):
        for method, path in calls():
            assert_problem(api.open(PREFIX + path, method=method, headers=bad), "unauthenticated")


# Database sessions


@pytest.fixture
def sessions(db):
    """Yield a function that creates a table of the site. The tables are dropped after the test."""
    made: list[str] = []

    def make(statement: str) -> None:
        db.execute(statement)
        made.append(statement)
        # A site has to grant this to the service's role.
        table = statement.removeprefix("create table ").partition(" (")[0]
        db.execute(f"grant select on {table} to {SERVICE}".encode())

    yield make
    db.execute('drop view if exists live; drop table if exists "Session", sessions; drop schema if exists auth cascade')


COLUMNS = {
    "timestamptz and uuid": '"sessionToken" text primary key, "userId" uuid, "expires" timestamptz',
    "timestamp in UTC and text": '"sessionToken" varchar(255) unique, "userId" text, "expires" timestamp(3)',
}


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS.keys())
def test_a_database_session_lasts_until_it_expires_in_utc(make_api, world, sessions, database_url, columns, zone):
    sessions(f"create table sessions ({columns})")
    world.execute("set timezone = 'UTC'")
    for session, end in (("live", "5 seconds"), ("past", "-1 milliseconds"), ("other", "1 hour")):
        user = STRANGER if session == "other" else LEARNER
        world.execute("insert into sessions values (%s, %s, now() + %s)", [session, user, end])
    api = make_api(
        AUTH_SESSION_TABLE="sessions", DATABASE_URL=f"{as_service(database_url)}&options=-c%20timezone%3D{zone}"
    )
    statuses = {name: api.get(GET, headers={"Cookie": f"{V5}={name}"}).status_code for name in ("live", "past", "none")}
    assert statuses == {"live": 200, "past": 401, "none": 401}
    assert api.get(GET, headers={"Cookie": f"{V5}=other"}).status_code == 403


@pytest.mark.parametrize(
    "table", ["sessions", "Sessions", '"Session"', "auth.sessions", 'auth."Odd ""name"" % :x"', "live"]
)
def test_the_table_may_have_any_name_and_be_a_view(make_api, world, sessions, table):
    world.execute(f"create schema auth; grant usage on schema auth to {SERVICE}")
    name = table.replace("live", "sessions")
    sessions(f"create table {name} ({COLUMNS['timestamptz and uuid']})")
    if table == "live":
        world.execute(f"create view live as select * from sessions; grant select on live to {SERVICE}")
    world.execute(f"insert into {name} values ('t', '{LEARNER}', 'infinity')".encode())
    assert make_api(AUTH_SESSION_TABLE=table).get(GET, headers={"Cookie": f"{V5}=t"}).status_code == 200


@pytest.mark.parametrize("made", ["8f14e45f-ceea-467f-a9d6-3b0c8b1d2e4f", "q+Zx/8w==", "100%", "%2B", "ü ;,", "+"])
def test_a_database_session_is_found_by_the_token_that_auth_js_percent_encodes(make_api, world, sessions, made):
    sessions(f"create table sessions ({COLUMNS['timestamptz and uuid']})")
    world.execute("insert into sessions values (%s, %s, 'infinity')", [made, LEARNER])
    encoded = quote(made, safe="!'()*~")  # encodeURIComponent
    api = make_api(AUTH_SESSION_TABLE="sessions")
    assert api.get(GET, headers={"Cookie": f"{V5}={encoded}"}).status_code == 200
    for other in (f"{encoded}%00", "%00", "%", "%FF", f"{encoded}x"):
        assert_problem(api.get(GET, headers={"Cookie": f"{V5}={other}"}), "unauthenticated")


@pytest.mark.parametrize("user_id", ["1", "github|7", "{6f9619ff-8b86-4d11-b42d-00c04fc964ff}", ""])
def test_a_database_session_of_a_user_id_that_is_no_uuid_is_401(make_api, world, sessions, user_id):
    sessions(f"create table sessions ({COLUMNS['timestamp in UTC and text']})")
    world.execute("insert into sessions values ('t', %s, now() + '1 hour')", [user_id])
    assert_problem(make_api(AUTH_SESSION_TABLE="sessions").get(GET, headers={"Cookie": f"{V5}=t"}), "unauthenticated")


@pytest.mark.parametrize("made", ["a.b", "a.b.c", "a.b.c.d.e", "."])
def test_a_database_session_may_have_dots_in_its_token(make_api, world, sessions, made):
    sessions(f"create table sessions ({COLUMNS['timestamptz and uuid']})")
    world.execute("insert into sessions values (%s, %s, 'infinity')", [made, LEARNER])
    api = make_api(AUTH_SESSION_TABLE="sessions", AUTH_JWT_SECRET="")
    assert api.get(GET, headers={"Cookie": f"{V5}={made}"}).status_code == 200
    assert_problem(api.get(GET, headers={"Cookie": f"{V5}={made}x"}), "unauthenticated")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, 'relation "sessions" does not exist'),
        ('"sessionToken" text, "userId" uuid', 'column "expires" does not exist'),
        ('"sessionToken" text, userid uuid, "expires" timestamptz', 'column "userId" does not exist'),
        ('"sessionToken" int, "userId" uuid, "expires" timestamptz', "operator does not exist: integer = text"),
    ],
)
def test_a_table_or_a_column_that_is_missing_stops_the_start(environ, db, sessions, columns, message):
    if columns:
        sessions(f"create table sessions ({columns})")
    with pytest.raises(NotReadyError) as error:
        readiness.check(from_environ(environ | {"AUTH_SESSION_TABLE": "sessions"}))
    assert str(error.value) == f"AUTH_SESSION_TABLE: {message}"


@pytest.mark.parametrize(
    "text",
    ["a b", "sessions; drop table users", '"open', "a.b.c", "1a", "sessions--", "a.", ".a", '""', "naïve", "a'b"],
)
def test_a_name_that_is_no_tables_stops_the_start(environ, text):
    with pytest.raises(SettingsError, match=r"^AUTH_SESSION_TABLE: .* is not the name of a table"):
        from_environ(environ | {"AUTH_SESSION_TABLE": text})


def test_the_statement_of_database_sessions_has_a_true_header_and_runs_in_psql(db, sessions, database_url):
    sessions(f"create table sessions ({COLUMNS['timestamptz and uuid']})")
    db.execute("insert into sessions values ('t', %s, now() + '1 hour')", [LEARNER])
    assert header("session") == ([("session_token", "text")], [("user_id", "text")])
    command = [str(bindir() / "psql"), "-XAtq", "-v", "session_table=sessions", "-v", "session_token=t", database_url]
    shown = subprocess.run([*command, "-f", str(SQL / "session.sql")], capture_output=True, text=True, check=True)
    assert shown.stdout == f"{LEARNER}\n"


# Cross-site writes, and CORS

OWN = {"Host": "www.example.org"}
SITES = [None, "same-origin", "none", "same-site", "cross-site", "", "nonsense"]
ORIGINS = {
    None: True,
    "https://www.example.org": True,
    "http://www.example.org": True,
    "https://WWW.example.org": True,
    "https://www.example.org:443": True,
    "http://www.example.org:80": True,
    "https://www.example.org:80": False,
    "https://www.example.org:8443": False,
    "https://example.org": False,
    "https://evil.example": False,
    "https://www.example.org.evil.example": False,
    "null": False,
    "": False,
    "www.example.org": False,
    "https://[::1": False,
    "https://www.example.org:port": False,
}


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("origin", ORIGINS, ids=str)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_write_by_cookie_passes_from_the_same_origin_alone(cookie_api, world, site, origin, method):
    api = cookie_api
    fetch = OWN | {k: v for k, v in {"Sec-Fetch-Site": site, "Origin": origin}.items() if v is not None}
    passes = site in ("same-origin", "none") if site is not None else ORIGINS[origin]
    answer = api.open(WRITE, method=method, headers=cookie() | fetch)
    if passes:
        assert answer.status_code == 200
    else:
        assert_problem(answer, "cross_site_request")
    # A browser never sends a token by itself, so a write with a token may come from any page. So may a read, because it
    # changes nothing.
    assert api.open(WRITE, method=method, headers=bearer() | fetch).status_code == 200
    for reading in ("GET", "HEAD"):
        assert api.open(GET, method=reading, headers=cookie() | fetch).status_code == 200


@pytest.mark.parametrize("host", ["www.example.org:443", "www.example.org:port", "[::1", "[x]", "a]", "", None])
def test_an_origin_is_no_ones_own_where_the_host_is_another_or_none(cookie_app, cookie_api, world, host):
    request = EnvironBuilder(WRITE, method="POST", headers=cookie()).get_environ()
    del request["HTTP_HOST"]
    if host is not None:
        request["HTTP_HOST"] = host
    for origin in ("http://www.example.org", "http://none", "http://xxxx", "http://"):
        body, status, _ = run_wsgi_app(cookie_app, request | {"HTTP_ORIGIN": origin})
        assert (json.loads(b"".join(body))["code"], status[:3]) == ("cross_site_request", "403")


@pytest.fixture(scope="module")
def cookie_app(environ):
    app = create_app(from_environ(environ | {"AUTH_SECRET": SECRET}))
    yield app
    service_of(app).pool.close()


@pytest.fixture
def cookie_api(cookie_app, db):
    return cookie_app.test_client(use_cookies=False)


def test_the_session_is_looked_at_before_the_origin(cookie_api, world):
    bad = {"Cookie": f"{V5}=nonsense", "Sec-Fetch-Site": "cross-site"}
    assert_problem(cookie_api.post(WRITE, headers=bad), "unauthenticated")
    foreign = cookie(STRANGER) | {"Sec-Fetch-Site": "cross-site"}
    assert_problem(cookie_api.post("/api/progress/lessons/1", headers=foreign), "cross_site_request")


def test_a_cross_site_write_spends_nothing_of_the_write_limit(make_api, world):
    api = make_api(AUTH_SECRET=SECRET, RATE_LIMIT_WRITES="1 per hour")
    for _ in range(3):
        foreign = cookie() | {"Sec-Fetch-Site": "cross-site"}
        assert_problem(api.post(WRITE, headers=foreign), "cross_site_request")
    assert [api.post(WRITE, headers=cookie()).status_code for _ in range(2)] == [200, 429]


PAGE = "https://app.example.org"


def test_an_allowed_origin_writes_by_cookie_and_reads_the_answer(make_api, world):
    api = make_api(AUTH_SECRET=SECRET, ALLOWED_ORIGINS=f"{PAGE}, http://localhost:3000")
    for origin in (PAGE, "http://localhost:3000"):
        for site in ("same-site", "cross-site"):
            answer = api.post(WRITE, headers=cookie() | {"Origin": origin, "Sec-Fetch-Site": site})
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            exposed = answer.headers["Access-Control-Expose-Headers"]
            assert set(exposed.split(", ")) == {"ETag", "Retry-After", "Idempotency-Key", "Learner-Tag", "X-Request-Id"}
            assert answer.headers["Vary"] == "Authorization, Cookie, Origin"
    # A page may also read errors. An answer to a request without Origin has `Vary: Origin` too.
    assert api.get(GET, headers={"Origin": PAGE}).headers["Access-Control-Allow-Origin"] == PAGE
    assert api.get(GET).headers["Vary"] == "Authorization, Cookie, Origin"
    assert make_api().get(GET).headers["Vary"] == "Authorization, Cookie"


def test_a_page_of_an_allowed_origin_reads_the_answer_to_its_token_too(make_api, world):
    api = make_api(ALLOWED_ORIGINS=PAGE)
    for origin, allowed in ((PAGE, PAGE), ("https://another.example", None)):
        asked = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        preflight = asked | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,idempotency-key",
        }
        answers = [
            api.options(WRITE, headers=preflight),
            api.post(WRITE, headers=bearer() | asked),
            api.get(GET, headers={"Authorization": "Bearer x"} | asked),
        ]
        assert [answer.status_code for answer in answers] == [204 if allowed else 405, 200, 401]
        assert {answer.headers.get("Access-Control-Allow-Origin") for answer in answers} == {allowed}


def test_what_is_nobodys_own_is_the_same_for_every_origin(make_api, world):
    api = make_api(ALLOWED_ORIGINS=PAGE, STRIPE_WEBHOOK_SECRET="whsec_1")
    answers = [api.get(path, headers={"Origin": PAGE}) for path in ("/healthz", "/readyz", "/openapi.yaml")]
    answers.append(api.post("/api/stripe/webhook", headers={"Origin": PAGE}))
    for answer in answers:
        assert "Vary" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:444", PAGE.upper(), ""]
)
def test_no_other_origin_is_told_anything(make_api, world, origin):
    api = make_api(AUTH_SECRET=SECRET, ALLOWED_ORIGINS=PAGE)
    answer = api.post(WRITE, headers=cookie() | {"Origin": origin})
    assert_problem(answer, "cross_site_request")
    preflight = api.options(WRITE, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 405
    for response in (answer, preflight):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(("path", "methods"), [(WRITE, "DELETE, POST"), (GET, "GET, HEAD")])
def test_a_preflight_of_an_allowed_origin_is_answered_without_a_session(make_api, world, path, methods):
    api = make_api(AUTH_SECRET=SECRET, ALLOWED_ORIGINS=PAGE)
    answer = api.options(path, headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Allow-Methods"] == methods
    assert answer.headers["Access-Control-Max-Age"] == "600"
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    needed = {"authorization", "content-type", "idempotency-key", "if-none-match", "learner-tag"}
    assert needed <= set(allowed.split(", "))
    assert "Origin" in answer.headers["Vary"]
    # An OPTIONS that is no preflight, and an unknown path.
    assert_problem(api.options(path, headers={"Origin": PAGE}), "method_not_allowed")
    nowhere = api.options("/api/nothing", headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
    assert_problem(nowhere, "not_found")


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "null",
        "https://*.example.org",
        "www.example.org",
        "https://www.example.org/",
        "https://www.example.org/path",
        "ftp://www.example.org",
        "https://",
        "https://user@www.example.org",
        "https://www.example.org:443",
        "http://www.example.org:80",
        "https://a b",
        "https://WWW.example.org",
        "https://www.example.org,",
        "https://www.example.org?x",
        "https://www.example.org, *",
    ],
)
def test_what_is_no_origin_stops_the_start(environ, text):
    with pytest.raises(SettingsError, match=r"^ALLOWED_ORIGINS: "):
        from_environ(environ | {"ALLOWED_ORIGINS": text})


def test_without_allowed_origins_there_is_no_cors(cookie_api, world):
    answer = cookie_api.get(GET, headers=cookie() | {"Origin": PAGE})
    assert answer.status_code == 200
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
