"""Learner-Tag (contract §5): an answer names the learner of its session, and a write may name the learner it is for."""

import hashlib
import re
import urllib.request
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.database import statements
from app.database.pool import Pool
from app.service import service_of
from tests.conftest import SERVICE, running_gunicorn
from tests.test_errors import FAULTS, READS, with_faults
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    SECRET,
    STRANGER,
    add_course,
    add_lesson,
    add_module,
    add_user,
    after_outage,
    assert_problem,
    bearer,
    completions,
    cookie,
    lesson_path,
    mark,
    module_path,
    ok,
    require,
    token,
    unmark,
    uuid4,
)

SUMMARY = "/api/progress/summary"
TAG = re.compile("[0-9a-f]{32}")


@pytest.fixture
def world(db):
    """As in test_errors.py: lessons 2 and 3 lock lesson 4, lesson 5 is unpublished, and STRANGER has no access."""
    add_user(db)
    add_user(db, FREE_LEARNER, access="free")
    add_user(db, STRANGER, access=None)
    add_module(db, 1, 2, 3, 4)
    add_lesson(db, 1, 5, published=False, is_free=True)
    add_module(db, 7, 8)
    add_course(db, 3, 1)
    require(db, 4, 3, 2)
    return db


def tag_of(api: Any, user_id: str = LEARNER) -> str:
    tag = api.get(SUMMARY, headers=bearer(user_id)).headers["Learner-Tag"]
    assert TAG.fullmatch(tag)
    return str(tag)


def test_every_answer_to_a_session_carries_its_learners_tag(make_api, world, monkeypatch):
    api = make_api(RATE_LIMIT_WRITES="100 per hour")
    tag = tag_of(api)
    answers = [
        call(path, headers=bearer())
        for path in (*(f"/api/progress/{name}" for name in READS), module_path(0x99))
        for call in (api.get, api.head)
    ]
    answers += [mark(api, 2), unmark(api, 2), mark(api, 2, headers={"Learner-Tag": tag})]
    assert {answer.status_code for answer in answers} == {200, 404}
    etag = api.get(SUMMARY, headers=bearer()).headers["ETag"]
    answers.append(api.get(SUMMARY, headers=bearer() | {"If-None-Match": etag}))
    assert answers[-1].status_code == 304
    for answer in answers:
        assert answer.headers.getlist("Learner-Tag") == [tag]
        assert answer.headers["Vary"] == "Authorization, Cookie"
    for user_id, faults in ((LEARNER, {*FAULTS} - {"unauthenticated", "not_enrolled"}), (STRANGER, {"not_enrolled"})):
        for fault in faults:
            answer = with_faults(api, "POST", fault)
            assert (answer.get_json()["code"], answer.headers["Learner-Tag"]) == (fault, tag_of(api, user_id))
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "read", lambda *_, **__: 1 / 0)
        failed = api.get(SUMMARY, headers=bearer())
    with monkeypatch.context() as patch:
        slow = b"do $$ begin raise exception using errcode = 'query_canceled'; end $$"
        patch.setitem(statements.STATEMENTS, "summary", statements.Statement("summary", slow, ()))
        unavailable = api.get(SUMMARY, headers=bearer())
    limited = make_api(RATE_LIMIT_WRITES="1 per hour")
    over = [unmark(limited, 2) for _ in range(2)][1]
    assert [answer.status_code for answer in (failed, unavailable, over)] == [500, 503, 429]
    assert [answer.headers["Learner-Tag"] for answer in (failed, unavailable, over)] == [tag] * 3


def test_no_answer_before_the_session_is_found_valid_carries_one(api, make_api, world):
    nobody = {"Authorization": "Bearer nonsense"}
    answers = [api.get(SUMMARY), api.get(SUMMARY, headers=nobody), api.post(lesson_path(2), headers=nobody)]
    for headers in (bearer(), bearer() | {"Learner-Tag": "another"}):
        answers += [
            api.get("/api/progress/nothing", headers=headers),
            api.get("/api//progress/summary", headers=headers),
            api.put(lesson_path(2), headers=headers),
            api.get("/healthz", headers=headers),
            api.get("/openapi.yaml", headers=headers),
        ]
    origin = "https://www.example.org"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answers.append(make_api(ALLOWED_ORIGINS=origin).options(lesson_path(2), headers=preflight))
    assert {answer.status_code for answer in answers} == {200, 204, 401, 404, 405}
    assert not any("Learner-Tag" in answer.headers for answer in answers)


def test_a_tag_is_one_learners_whatever_their_session_is_and_on_every_host(make_api, world, environ):
    world.execute('create table sessions ("sessionToken" text primary key, "userId" uuid, "expires" timestamptz)')
    world.execute(f"grant select on sessions to {SERVICE}")
    try:
        world.execute("insert into sessions values ('a-session', %s, now() + '1 day')", [LEARNER])
        settings = {"AUTH_SECRET": SECRET, "AUTH_SESSION_TABLE": "sessions"}
        api = make_api(**settings)
        sessions = [
            bearer(),
            bearer(LEARNER.upper()),
            {"Authorization": f"Bearer {token(exp=4_000_000_000)}"},
            cookie(),
            {"Cookie": "authjs.session-token=a-session"},
        ]
        tags = {api.get(SUMMARY, headers=session).headers["Learner-Tag"] for session in sessions}
        tags.add(tag_of(make_api(**settings)))
        with running_gunicorn(environ | settings | {"WEB_CONCURRENCY": "1"}) as running:
            request = urllib.request.Request(running.url + SUMMARY, headers=bearer())
            tags.add(urllib.request.urlopen(request).headers["Learner-Tag"])
        assert len(tags) == 1
        assert len({tag_of(api, user_id) for user_id in (LEARNER, FREE_LEARNER, STRANGER, uuid4(0x77))}) == 4
    finally:
        world.execute("drop table sessions")


def test_a_tag_is_the_same_in_every_release(make_api, world):
    """During a deploy, two releases run at the same time."""
    assert tag_of(make_api()) == "59ed9a8588414529103c5ef0329b9cbd"


def test_a_tag_tells_nothing_to_one_who_knows_the_learners_id(make_api, world):
    tag = tag_of(make_api())
    hashes = {hashlib.new(name, LEARNER.encode()).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}
    assert not any(tag in digest for digest in hashes)
    other = {"AUTH_JWT_SECRET": "another secret of the tests that is longer than 32 bytes"}
    headers = {"Authorization": f"Bearer {token(key=other['AUTH_JWT_SECRET'])}"}
    assert make_api(**other).get(SUMMARY, headers=headers).headers["Learner-Tag"] != tag
    # The newest secret makes the tag, also for sessions that an older secret has signed.
    rotated = make_api(AUTH_JWT_SECRET=f"{SECRET},{other['AUTH_JWT_SECRET']}")
    assert {rotated.get(SUMMARY, headers=each).headers["Learner-Tag"] for each in (headers, bearer())} == {tag}


@pytest.fixture
def signed_for_a_public_key():
    """Return settings without a secret, and a function that makes a learner's session for them."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    settings = {"AUTH_JWT_SECRET": "", "AUTH_JWT_PUBLIC_KEY": public}
    return settings, lambda user_id: {"Authorization": f"Bearer {token(user_id, key=private, algorithm='EdDSA')}"}


def test_without_a_secret_the_key_is_the_databases_own(make_api, world, signed_for_a_public_key):
    settings, session = signed_for_a_public_key
    (key,) = world.execute("select key from learner_tag_keys").fetchone()
    assert len(set(key)) > 10

    def tags() -> list[str]:
        api = make_api(**settings)
        learners = (LEARNER, STRANGER, LEARNER)
        return [api.get(SUMMARY, headers=session(user_id)).headers["Learner-Tag"] for user_id in learners]

    api = make_api(**settings)
    first = api.get(SUMMARY, headers=session(LEARNER)).headers["Learner-Tag"]
    world.execute("alter table learner_tag_keys rename to away")
    try:  # the process has read the key already, and does not need the table again
        assert api.get(SUMMARY, headers=session(LEARNER)).headers["Learner-Tag"] == first
    finally:
        world.execute("alter table away rename to learner_tag_keys")
    mine, strangers, again = tags()
    assert mine == first
    assert mine == again != strangers
    assert tags() == [mine, strangers, again]
    world.execute("update learner_tag_keys set key = 'another'")
    try:
        assert not {mine, strangers} & {*tags()}
    finally:
        world.execute("update learner_tag_keys set key = %s", [key])


def test_a_database_that_is_away_before_its_key_was_read_lets_no_write_through(
    make_api, world, signed_for_a_public_key
):
    settings, session = signed_for_a_public_key
    api = make_api(**settings, DATABASE_TIMEOUT="0.3", WEB_THREADS="1")
    headers = session(LEARNER) | {"Learner-Tag": "another"}
    with service_of(api.application).pool.connection():
        answer = api.post(lesson_path(2), headers=headers)
    assert_problem(answer, "unavailable")
    assert "Learner-Tag" not in answer.headers
    assert_problem(after_outage(lambda: api.post(lesson_path(2), headers=headers)), "other_learner")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_write_with_another_tag_is_refused_and_stores_nothing(api, world, method):
    world.execute("insert into progress (user_id, lesson_id, completed_at) values (%s, %s, now())", [LEARNER, uuid4(3)])
    before = completions(world)
    mine, theirs = tag_of(api), tag_of(api, FREE_LEARNER)
    lesson = lesson_path(2 if method == "POST" else 3)
    for tag in (theirs, "", mine.upper(), f'"{mine}"', f"{mine}, {theirs}", mine[:-1], "*", "\u00e9"):
        answer = api.open(lesson, method=method, headers=bearer() | {"Learner-Tag": tag, "Idempotency-Key": "a-key"})
        assert_problem(answer, "other_learner")
        # The answer has the tag of the session's learner, so that the page can go on.
        assert answer.headers["Learner-Tag"] == mine
        assert answer.headers["Idempotency-Key"] == "a-key"
    assert completions(world) == before
    for headers in ({"Learner-Tag": mine}, {}):
        assert ok(api.open(lesson, method=method, headers=bearer() | headers))["completed"] is (method == "POST")


def test_a_read_takes_no_notice_of_a_tag(api, world):
    for path in READS:
        another = bearer() | {"Learner-Tag": "another"}
        answers = [api.get(f"/api/progress/{path}", headers=headers) for headers in (another, bearer())]
        assert answers[0].headers["ETag"] == answers[1].headers["ETag"]
        assert api.head(f"/api/progress/{path}", headers=another).status_code == 200


def test_a_write_of_another_learner_spends_nothing_of_the_write_limit(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    another = {"Learner-Tag": tag_of(api, FREE_LEARNER)}
    for _ in range(3):
        assert_problem(mark(api, 2, headers=another), "other_learner")
    assert world.execute("select count(*) from rate_limits").fetchone() == (0,)
    assert [mark(api, 2).status_code for _ in range(2)] == [200, 429]
    # When the limit is used up, other_learner still comes before rate_limited.
    assert_problem(mark(api, 2, headers=another), "other_learner")
