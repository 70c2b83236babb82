"""docs/front-end.md, "Your ids, your sessions, your database": each way to sign in, with the settings of its row.

Clerk and Supabase make tokens only on servers of their own. So the tokens of these two are made here, with the header
and the claims that their documentation lists. The real Better Auth is in tests/system/test_providers.py.
"""

import re
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from app.user_ids import learner_id
from tests.conftest import SERVICE
from tests.pages import block, table
from tests.test_jwks import EC, GET, OTHER_RSA, RSA, jwk, key_set_of, no_proxy, provider, wait_for  # noqa: F401
from tests.world import LEARNER, SECRET, add_module, assert_problem, lesson_path, ok, token, uuid4

NAMESPACE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
CUID = "clx1a2b3c0000abcd1234efgh"


def settings_of(sign_in: str, **replaced: str) -> dict[str, str]:
    """Return the settings in the row of a way to sign in; `replaced` are values for those that the page leaves open."""
    rows = table("docs/front-end.md", "Your ids, your sessions, your database")
    [told] = [row[1] for row in rows if row[0].startswith(sign_in)]
    settings = dict(re.findall(r"`([A-Z_]+)=([^`]+)`", told))
    if "`AUTH_USER_ID_NAMESPACE`" in told:
        settings["AUTH_USER_ID_NAMESPACE"] = NAMESPACE
    return settings | replaced


def moved(settings: dict[str, str], old: str, new: str) -> dict[str, str]:
    """The settings with another origin of the provider."""
    return {name: value.replace(old, new) for name, value in settings.items()}


@pytest.fixture
def sign_in(make_api, db, provider):  # noqa: F811
    """Start a service with the settings of a row, whose provider has the keys. Nobody is known yet."""
    add_module(db, 1, 2, is_free=True)

    def start(name: str, origin: str, *keys: dict[str, Any], **replaced: str) -> tuple[Any, str]:
        provider.keys = list(keys)
        own = provider.url.removesuffix("/keys")
        settings = moved(settings_of(name, **replaced), origin, own)
        api = make_api(AUTH_JWT_SECRET="", NEW_LEARNERS="add-free", **settings)
        wait_for(lambda: key_set_of(api)._fetched is not None)
        assert provider.paths[0] == urlsplit(settings["AUTH_JWKS_URL"]).path
        return api, own

    return start


def bearer(signed: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed}"}


def test_clerk(sign_in, db):
    api, url = sign_in("Clerk", "https://clerk.example.org", jwk(RSA, "ins_1", use="sig", alg="RS256"))
    now = int(time.time())

    def session(key: Any = RSA, **claims: Any) -> str:
        claims = {
            "azp": "https://www.example.org",
            "exp": now + 60,
            "fva": [7, -1],
            "iss": url,
            "nbf": now - 10,
            "sid": "sess_2ouF0x",
            "sts": "active",
            "v": 2,
        } | claims
        headers = {"kid": "ins_1", "cat": "cl_B7d4PD111AAA", "typ": "JWT"}
        return str(token("user_2ouF1yVvE", key=key, algorithm="RS256", headers=headers, **claims))

    def cookie(signed: str) -> dict[str, str]:
        return {"Cookie": f"__client_uat={now}; __session={signed}"}

    for headers in (bearer(session()), cookie(session())):
        assert ok(api.get(GET, headers=headers))["totalCount"] == 1
    assert db.execute("select id::text from users").fetchall() == [(learner_id("user_2ouF1yVvE", UUID(NAMESPACE)),)]
    marked = api.post(lesson_path(2), headers=cookie(session()) | {"Sec-Fetch-Site": "same-origin"})
    assert ok(marked)["completed"] is True
    foreign = api.post(lesson_path(2), headers=cookie(session()) | {"Sec-Fetch-Site": "cross-site"})
    assert_problem(foreign, "cross_site_request")
    for bad in (session(OTHER_RSA), session(exp=now - 60), session(iss="https://clerk.example.com")):
        for headers in (bearer(bad), cookie(bad)):
            assert_problem(api.get(GET, headers=headers), "unauthenticated")


def supabase(url: str, **claims: Any) -> dict[str, Any]:
    """The claims of an access token of Supabase."""
    return {
        "iss": f"{url}/auth/v1",
        "aud": "authenticated",
        "role": "authenticated",
        "aal": "aal1",
        "session_id": uuid4(9),
        "email": "ada@example.org",
        "phone": "",
        "is_anonymous": False,
    } | claims


def test_supabase(sign_in, db):
    key = jwk(EC, uuid4(7), use="sig", alg="ES256", key_ops=["verify"], ext=True)
    api, url = sign_in("Supabase", "https://abc.supabase.co", key)

    def access(**claims: Any) -> dict[str, str]:
        headers = {"kid": uuid4(7), "typ": "JWT"}
        return bearer(token(LEARNER, key=EC, algorithm="ES256", headers=headers, **supabase(url, **claims)))

    assert ok(api.get(GET, headers=access()))["totalCount"] == 1
    assert db.execute("select id::text from users").fetchall() == [(LEARNER,)]
    for bad in (access(aud="anon"), access(iss="https://abc.supabase.co/auth/v1"), access(sub=None)):
        assert_problem(api.get(GET, headers=bad), "unauthenticated")


def test_supabase_with_the_legacy_secret(make_api, db):
    add_module(db, 1, 2, is_free=True)
    settings = settings_of("Supabase", AUTH_JWT_SECRET=SECRET, NEW_LEARNERS="add-free")
    del settings["AUTH_JWKS_URL"]
    api = make_api(**settings)
    url = "https://abc.supabase.co"
    assert ok(api.get(GET, headers=bearer(token(LEARNER, **supabase(url)))))["totalCount"] == 1
    # The key of every page of the site is a token of the same secret, without a user.
    public = token(None, iss="supabase", ref="abc", role="anon")
    assert_problem(api.get(GET, headers=bearer(public)), "unauthenticated")


def test_the_grant_of_the_page_is_enough_for_database_sessions_with_cuids(make_api, db):
    """The table as Prisma makes it for Auth.js."""
    add_module(db, 1, 2, is_free=True)
    db.execute(
        'create table "Session" (id text primary key, "sessionToken" text not null unique, "userId" text not null,'
        " expires timestamp(3) not null)"
    )
    try:
        db.execute(block("sql", 'grant select ("sessionToken"').replace("to progress", f"to {SERVICE}"))
        db.execute("insert into \"Session\" values ('s', 't', %s, now() at time zone 'utc' + '1 hour')", [CUID])
        settings = settings_of("Auth.js with sessions in the database that", AUTH_USER_ID_NAMESPACE=NAMESPACE)
        api = make_api(AUTH_JWT_SECRET="", NEW_LEARNERS="add-free", **settings)
        assert ok(api.get(GET, headers={"Cookie": "authjs.session-token=t"}))["totalCount"] == 1
        assert_problem(api.get(GET, headers={"Cookie": "authjs.session-token=u"}), "unauthenticated")
    finally:
        db.execute('drop table "Session"')
