"""docs/front-end.md: sites without a session that the service reads. Their tokens are made by the real libraries."""

import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest

from app.user_ids import learner_id
from tests.conftest import ROOT
from tests.pages import block
from tests.system.test_authjs import status
from tests.test_jwks import certificate
from tests.test_providers import CUID, NAMESPACE, moved, settings_of
from tests.world import SECRET, add_module, token

BETTER_AUTH = Path(__file__).parent / "better-auth"
SITE = ROOT / "examples" / "next"


@contextmanager
def better_auth(file: Path) -> Iterator[str]:
    """A site with Better Auth on https; the file has its certificate."""
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CERTIFICATE": str(file)}
    command = ["node", "server.mjs"]
    with subprocess.Popen(command, cwd=BETTER_AUTH, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().strip()
            assert url, "Better Auth did not start"
            yield url
        finally:
            process.terminate()


def ask(url: str, path: str, trusted: ssl.SSLContext, cookie: str = "", **body: str) -> tuple[Any, str]:
    """Return the answer's document, and the cookies that it sets."""
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode() if body else None)
    for name, value in {"Content-Type": "application/json", "Origin": url, "Cookie": cookie}.items():
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=60, context=trusted) as response:
        cookies = [header.partition(";")[0] for header in response.headers.get_all("Set-Cookie") or ()]
        return json.load(response), "; ".join(cookies)


def bearer_status(url: str, signed: str) -> int:
    request = urllib.request.Request(f"{url}/api/progress/summary", headers={"Authorization": f"Bearer {signed}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_learner_who_signed_up_with_better_auth_is_one_by_the_token_of_its_plugin(gunicorn, db, tmp_path):
    add_module(db, 1, 2, is_free=True)
    file = certificate(tmp_path, "127.0.0.1")
    trusted = ssl.create_default_context(cafile=str(file))
    with better_auth(file) as site:
        settings = moved(settings_of("Better Auth"), "https://www.example.org", site)
        url = gunicorn(AUTH_JWT_SECRET="", NEW_LEARNERS="add-free", SSL_CERT_FILE=str(file), **settings)
        person = {"name": "Ada", "email": "ada@example.org", "password": "correct horse battery staple"}
        signed_up, cookie = ask(site, "/api/auth/sign-up/email", trusted, **person)
        answer, _ = ask(site, "/api/auth/token", trusted, cookie)
        assert bearer_status(url, answer["token"]) == 200
        # What the page says of the ids.
        user_id = signed_up["user"]["id"]
        assert len(user_id) == 32
        assert user_id.isalnum()
        assert db.execute("select id::text from users").fetchall() == [(learner_id(user_id, UUID(NAMESPACE)),)]
        assert jwt.get_unverified_header(answer["token"])["alg"] == "EdDSA"
        # Its session cookie, and a token that it did not sign, are nobody's.
        assert status(url, cookie) == 401
        assert bearer_status(url, token(user_id, aud=site, iss=site)) == 401


@pytest.fixture
def site_with_tokens(tmp_path: Path) -> Path:
    """A site with the page's route, and an `auth()` that says who is signed in: the user id in USER_ID."""
    route = tmp_path / "app" / "api" / "progress-token" / "route.ts"
    route.parent.mkdir(parents=True)
    route.write_text(block("ts", "new SignJWT()"))
    (tmp_path / "auth.ts").write_text(
        'import type NextAuth from "next-auth";\n'
        "const user = process.env.USER_ID ? { id: process.env.USER_ID } : undefined;\n"
        'export const auth = (async () => ({ user, expires: "" })) as ReturnType<typeof NextAuth>["auth"];\n'
    )
    (tmp_path / "call.ts").write_text(
        'import { GET } from "./app/api/progress-token/route";\n'
        "GET().then(async (response) => console.log(await response.text()));\n"
    )
    shutil.copy(SITE / "tsconfig.json", tmp_path)
    (tmp_path / "package.json").write_text('{ "private": true }')
    (tmp_path / "node_modules").symlink_to(SITE / "node_modules")
    return tmp_path


def run(folder: Path, program: str, *arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [SITE / "node_modules" / ".bin" / program, *arguments],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)} | environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_token_that_the_pages_route_signs_is_a_session_of_whoever_is_signed_in(gunicorn, db, site_with_tokens):
    add_module(db, 1, 2, is_free=True)
    settings = settings_of("Auth.js with sessions in another", AUTH_JWT_SECRET=SECRET, AUTH_USER_ID_NAMESPACE=NAMESPACE)
    url = gunicorn(NEW_LEARNERS="add-free", **settings)
    run(site_with_tokens, "tsc")
    answers = [
        json.loads(run(site_with_tokens, "tsx", "call.ts", AUTH_JWT_SECRET=SECRET, USER_ID=user_id))
        for user_id in (CUID, "")
    ]
    assert bearer_status(url, answers[0]["token"]) == 200
    assert db.execute("select id::text from users").fetchall() == [(learner_id(CUID, UUID(NAMESPACE)),)]
    assert answers[1] == {"token": None}
