"""AUTH_USER_ID_NAMESPACE: a user id that is not a UUID becomes one, the same in sessions, Stripe's events and tasks."""

import json
import logging
import uuid

import pytest

from app.logs import JsonFormatter
from app.user_ids import learner_id
from tests.test_cli import make, run
from tests.test_cookies import V5, sessions  # noqa: F401
from tests.test_sessions import by_hand, claims
from tests.test_stripe import SECRET as WEBHOOK_SECRET
from tests.test_stripe import checkout, copied, event, outcome, subscription, sync  # noqa: F401
from tests.world import LEARNER, SECRET, add_module, add_user, assert_problem, cookie, get, lesson_path, ok, token

NAMESPACE = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
SETTINGS = {"AUTH_USER_ID_NAMESPACE": NAMESPACE}
LONG_AGO = 1_700_000_000
SUMMARY = "/api/progress/summary"
CUID = "clx1a2b3c0000abcd1234efgh"


def made(text: str) -> str:
    return str(uuid.uuid5(uuid.UUID(NAMESPACE), text))


# User ids, and the UUIDs that they become. None stands for the UUID that `made` computes. The first one is the example
# of RFC 9562, appendix A.4.
IDS = [
    ("www.example.com", "2ed6657d-e927-568b-95e1-2665a8aea6a2"),
    (CUID, "31063386-c52d-5a22-afa4-da12503cb97d"),
    ("1", None),
    ("github|7", None),
    ("ada@example.org", None),
    ("Ünïcødé 学习 🎓", None),
    (" ", None),
    ("\0", None),
    ("x" * 255, None),
    ("🎓" * 255, None),
    (LEARNER.replace("-", ""), None),  # without hyphens this is no UUID, but an id like any other
    (f"{{{LEARNER}}}", None),
    (f"urn:uuid:{LEARNER}", None),
    (LEARNER + "\n", None),
]


@pytest.mark.parametrize(("user_id", "learner"), IDS)
def test_an_id_that_is_no_uuid_becomes_the_uuid_5_of_its_text(user_id, learner):
    assert learner_id(user_id, uuid.UUID(NAMESPACE)) == made(user_id)
    assert learner in (None, made(user_id))
    assert learner_id(user_id, None) is None


@pytest.mark.parametrize("number", [0, 7, -7, 2**63, 10**254])
def test_an_integer_counts_as_its_decimal_text(number):
    assert learner_id(number, uuid.UUID(NAMESPACE)) == made(str(number))


@pytest.mark.parametrize("namespace", [None, uuid.UUID(NAMESPACE)])
def test_a_uuid_stays_itself_in_lower_case(namespace):
    for user_id in (LEARNER, NAMESPACE, "ffffffff-ffff-ffff-ffff-ffffffffffff"):
        assert learner_id(user_id, namespace) == learner_id(user_id.upper(), namespace) == user_id


@pytest.mark.parametrize(
    "user_id",
    ["", "x" * 256, "\ud800", "a\udfff", 10**255, True, False, None, 1.0, float("nan"), [], [CUID], {}, b"id"],
)
def test_what_is_no_text_of_1_to_255_characters_is_malformed(user_id):
    assert learner_id(user_id, uuid.UUID(NAMESPACE)) is None


@pytest.fixture
def world(db):
    """The learner whose user id is CUID has free access to the only lesson."""
    add_user(db, made(CUID), access="free")
    add_module(db, 1, 2, is_free=True)
    return db


def test_two_ways_in_for_one_user_are_one_learner(make_api, world, sessions):  # noqa: F811
    sessions('create table sessions ("sessionToken" text, "userId" text, "expires" timestamptz)')
    world.execute("insert into sessions values ('t', %s, 'infinity')", [CUID])
    api = make_api(AUTH_SECRET=SECRET, AUTH_SESSION_TABLE="sessions", RATE_LIMIT_WRITES="4 per minute", **SETTINGS)
    ways = [
        {"Authorization": f"Bearer {token(CUID)}"},
        cookie(CUID),
        {"Cookie": f"{V5}={token(CUID)}"},
        {"Cookie": f"{V5}=t"},
        {"Authorization": f"Bearer {token(made(CUID))}"},
    ]
    assert ok(api.post(lesson_path(2), headers=ways[0]))["completed"] is True
    answers = [api.get("/api/progress/lessons", headers=headers) for headers in ways]
    assert len({(answer.data, answer.headers["Learner-Tag"]) for answer in answers}) == 1
    assert ok(answers[0])["lessons"][0]["completedAt"]
    # All these sessions are one learner's, so they share the write limit.
    statuses = [api.delete(lesson_path(2), headers=headers).status_code for headers in ways[1:]]
    assert statuses == [200, 200, 200, 429]
    assert world.execute("select id::text from users").fetchall() == [(made(CUID),)]


def test_another_namespace_is_another_learner(make_api, world):
    answers = [
        make_api(AUTH_USER_ID_NAMESPACE=namespace).get(SUMMARY, headers={"Authorization": f"Bearer {token(CUID)}"})
        for namespace in (NAMESPACE, LEARNER)
    ]
    assert ok(answers[0])["totalCount"] == 1
    assert_problem(answers[1], "not_enrolled")


# The column "userId", the site's id of the user, and the text that the learner's UUID is made of.
@pytest.mark.parametrize(
    ("column", "user_id", "text"),
    [
        ("text", CUID, CUID),
        ("varchar(30)", CUID, CUID),
        ("integer", 7, "7"),
        ("bigint", 2**62, str(2**62)),
        ("uuid", LEARNER, None),
        ("text", LEARNER.upper(), None),
    ],
)
def test_a_database_session_may_have_ids_of_any_type(make_api, db, sessions, column, user_id, text):  # noqa: F811
    sessions(f'create table sessions ("sessionToken" text, "userId" {column}, "expires" timestamptz)')
    db.execute("insert into sessions values ('t', %s, 'infinity')", [user_id])
    add_user(db, made(text) if text else LEARNER)
    add_module(db, 1, 2)
    api = make_api(AUTH_SESSION_TABLE="sessions", **SETTINGS)
    assert ok(api.get(SUMMARY, headers={"Cookie": f"{V5}=t"}))["totalCount"] == 1


def test_a_session_may_have_an_integer_for_its_user_id(make_api, db):
    add_user(db, made("7"))
    add_module(db, 1, 2)
    api = make_api(AUTH_SECRET=SECRET, **SETTINGS)
    for headers in ({"Authorization": f"Bearer {by_hand(claims(sub='7'))}"}, cookie(7)):
        assert ok(api.get(SUMMARY, headers=headers))["totalCount"] == 1


@pytest.mark.parametrize(
    "sub", ['""', '"\\ud800"', f'"{"x" * 256}"', "1.5", "true", "false", "[]", "{}", "null", "1e3"]
)
def test_a_malformed_user_id_is_401_and_no_log_repeats_it(make_api, world, sub, caplog):
    caplog.set_level(logging.INFO)
    api = make_api(AUTH_SECRET=SECRET, **SETTINGS)
    for headers in ({"Authorization": f"Bearer {by_hand(claims(sub=sub))}"}, cookie(json.loads(sub))):
        answer = api.get(SUMMARY, headers=headers)
        assert_problem(answer, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].isascii()
    errors = [json.loads(JsonFormatter().format(record))["error"].split(": ", 1)[1] for record in caplog.records]
    text = json.loads(sub)
    kind = "missing claim" if text is None else "unusable user id" if isinstance(text, str) else "unusable claim"
    assert [error.partition(":")[0] for error in errors] == [kind] * 2


def test_no_log_and_no_answer_has_the_sites_own_id(make_api, db, caplog):
    caplog.set_level(logging.DEBUG)
    address = "ada@example.org"
    add_user(db, made(address))
    add_module(db, 1, 2)
    api = make_api(STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET, **SETTINGS)
    headers = {"Authorization": f"Bearer {token(address)}"}
    answers = [api.get(SUMMARY, headers=headers), api.post(lesson_path(2), headers=headers)]
    assert [answer.status_code for answer in answers] == [200, 200]
    outcome(api, event("created", subscription(metadata={"userId": address})))
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert [json.loads(line).get("user_id") for line in lines[:2]] == [made(address)] * 2
    assert not [text for text in (*lines, *(answer.text for answer in answers)) if address in text]


@pytest.mark.parametrize("user_id", [CUID, "7", 7, made(CUID)])
def test_stripes_metadata_and_a_checkout_name_the_learner_by_the_sites_id(make_api, db, user_id):
    learner = str(user_id) if user_id == made(CUID) else made(str(user_id))
    add_user(db, learner, access=None)
    api = make_api(STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET, **SETTINGS)
    assert outcome(api, event("created", subscription(metadata={"userId": user_id}))) == "applied"
    assert db.execute("select user_id::text from subscriptions").fetchall() == [(learner,)]
    db.execute("delete from stripe_subscriptions; delete from subscriptions")
    assert outcome(api, event("created", subscription(metadata={}))) == "unattached"
    assert outcome(api, checkout(user_id)) == "applied"
    assert db.execute("select user_id::text from subscriptions").fetchall() == [(learner,)]


@pytest.mark.parametrize("user_id", ["x" * 256, "\ud800", {"a": 1}, True])
def test_a_malformed_id_at_stripe_is_nobodys(make_api, db, user_id, caplog):
    api = make_api(STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET, **SETTINGS)
    with caplog.at_level("INFO", "progress.requests"):
        assert outcome(api, event("created", subscription(metadata={"userId": user_id}))) == "unattached"
        assert outcome(api, checkout(user_id)) == "unattached"
    reasons = [record.__dict__["fields"]["stripe"]["reason"] for record in caplog.records]
    assert reasons == ["the user id is not a text of 1 to 255 characters"] * 2


def test_a_sync_reads_the_ids_of_the_metadata_too(make_api, db, sync):  # noqa: F811
    add_user(db, made(CUID), access=None)
    sold = subscription(metadata={"userId": CUID})
    # This event comes before the namespace is set.
    assert outcome(make_api(STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET), event("created", sold, LONG_AGO)) == "unattached"
    status, said = sync(sold, **SETTINGS)
    assert (status, said[-1]) == (0, "fetched 1 in all")
    assert said[0].endswith(made(CUID))
    assert copied(db, made(CUID))


def test_the_tasks_take_the_sites_id_of_a_user(make_api, db, database_url):
    learner = made(CUID)
    assert run(database_url, "add-user", USER=CUID, **SETTINGS) == (0, f"added {learner}\n", "")
    assert run(database_url, "grant-free", USER=CUID, **SETTINGS)[0] == 0
    add_module(db, 1, 2, is_free=True)
    signed = run(database_url, "token", USER=CUID, AUTH_JWT_SECRET=SECRET, **SETTINGS)[1].strip()
    answer = make_api().get(SUMMARY, headers={"Authorization": f"Bearer {signed}"})
    assert ok(answer)["totalCount"] == 1
    assert run(database_url, "access", USER=CUID, **SETTINGS) == run(database_url, "access", USER=learner)
    assert run(database_url, "revoke-free", USER=CUID, **SETTINGS)[0] == 0
    assert get(make_api(), "access", learner)["free"] is False


def test_learner_id_prints_the_uuid_and_needs_no_database():
    assert run(None, "learner-id", USER=CUID, **SETTINGS) == (0, f"{made(CUID)}\n", "")
    assert run(None, "learner-id", USER="7", **SETTINGS) == (0, f"{made('7')}\n", "")
    assert run(None, "learner-id", USER=LEARNER.upper(), **SETTINGS) == (0, f"{LEARNER}\n", "")
    assert run(None, "learner-id", USER=LEARNER) == (0, f"{LEARNER}\n", "")


def test_by_make_learner_id_is_of_what_is_given_to_make():
    id = "$(id) `id` 'x' \"y\""
    assert make("", "learner-id", f"USER={id}", **SETTINGS) == (0, f"{made(id)}\n", "")


@pytest.mark.parametrize("wrong", ["x", NAMESPACE.replace("-", ""), f"{{{NAMESPACE}}}", f"{NAMESPACE} {NAMESPACE}"])
def test_a_namespace_that_is_no_uuid_is_named_by_a_task(wrong):
    code, out, err = run(None, "learner-id", USER=CUID, AUTH_USER_ID_NAMESPACE=wrong)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: AUTH_USER_ID_NAMESPACE: {wrong!r} is not a UUID")


def test_a_task_refuses_a_user_that_is_too_long_or_not_utf_8():
    code, out, err = run(None, "learner-id", USER="x" * 256, **SETTINGS)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.endswith("is not a text of 1 to 255 characters\n")
    assert run(None, "learner-id", USER="\udcff", **SETTINGS)[0] == 1
