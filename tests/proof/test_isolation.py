"""Whatever a caller sends, no answer and no line of the log depends on another learner's rows."""

import json
import re
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from flask.testing import FlaskClient

from app.logs import JsonFormatter
from tests.calls import PREFIX, reads
from tests.conftest import DEEP, SERVICE, running_gunicorn
from tests.test_stripe import SECRET as STRIPE_SECRET
from tests.test_stripe import WEBHOOK, event, signed, subscription
from tests.world import (
    LEARNER,
    SECRET,
    add_course,
    add_lesson,
    add_module,
    add_user,
    bearer,
    complete,
    cookie,
    give_course,
    lesson_path,
    mark,
    ok,
    require,
    token,
    uuid4,
)

OTHER = uuid4(0xB0B)
EMAIL = "bob@example.org"
KEY = {"Idempotency-Key": "a-key-that-both-use"}
V5, V5_SECURE = "authjs.session-token", "__Secure-authjs.session-token"
DATABASE_SESSION = "the-others-database-session"
AT = {"completedAt": "2026-02-03T04:05:06.789Z"}


@pytest.fixture
def world(db):
    """The learner has completed lesson 2. Lesson 3 is open and locks lesson 4. Lesson 5 is unpublished.

    There is a table of database sessions.
    """
    add_user(db)
    add_module(db, 1, 2, 3, 4)
    add_lesson(db, 1, 5, published=False)
    add_module(db, 6, 7, 8)
    add_course(db, 9, 1)
    add_course(db, 10, 6)
    require(db, 4, 3)
    db.execute('create table sessions ("sessionToken" text primary key, "userId" uuid, "expires" timestamptz)')
    db.execute(f"grant select on sessions to {SERVICE}")
    yield db
    db.execute("drop table sessions")


@pytest.fixture
def service(make_api):
    app = make_api(
        AUTH_SECRET=SECRET,
        AUTH_SESSION_TABLE="sessions",
        ALLOWED_ORIGINS="https://www.example.org",
        RATE_LIMIT_WRITES="5000 per minute",
        STRIPE_WEBHOOK_SECRET=STRIPE_SECRET,
        METRICS="on",
    ).application
    # This client does not compare answers with the OpenAPI document. For thousands of calls that would take long, and
    # here answers are compared with each other.
    return FlaskClient(app, app.response_class, use_cookies=False)


def nobody_else(db, api):
    pass


def another_without_access(db, api):
    add_user(db, OTHER, access=None)


def another_with_everything(db, api):
    add_user(db, OTHER, "full")
    db.execute("insert into enrollments (user_id) values (%s)", [OTHER])
    for course in (9, 10):
        give_course(db, course, OTHER)
    db.execute("update users set email = %s, name = 'Bob' where id = %s", [EMAIL, OTHER])
    db.execute("""insert into sessions values (%s, %s, now() + '1 day')""", [DATABASE_SESSION, OTHER])
    complete(db, 2, 4, 5, 7, 8, user_id=OTHER, at="2025-12-31T00:00:00Z")
    # This completes a module and a course.
    assert ok(mark(api, 3, OTHER, headers=KEY, json=AT))["completions"]
    # The other learner has used up the write limit.
    db.execute("update rate_limits set hits = array_fill(now(), array[5000])")
    theirs = subscription(name="sub_other", metadata={"userId": OTHER}) | {"customer": "cus_other"}
    assert post_event(api, theirs).status_code == 200


def another_who_is_free(db, api):
    add_user(db, OTHER, "free")
    complete(db, 3, user_id=OTHER)


WORLDS = [nobody_else, another_with_everything, *([another_who_is_free, another_without_access] if DEEP else [])]


def post_event(api, document):
    payload = json.dumps(event("updated", document))
    return api.post(WEBHOOK, data=payload, headers=signed(payload))


class Call(NamedTuple):
    method: str
    path: str
    options: dict[str, Any]


def calls(api) -> dict[str, Call]:
    """Return a call for every route, every method of the route, and every kind of id."""
    ids = {
        "lesson_id": [uuid4(number) for number in (2, 3, 4)] + [OTHER],
        "module_id": [uuid4(1), uuid4(9), OTHER],
        "course_id": [uuid4(9), uuid4(1), OTHER],
    }
    found = {}
    for rule in api.application.url_map.iter_rules():
        argument = next(iter(rule.arguments), None)
        for value in ids[argument] if argument else [None]:
            with api.application.test_request_context():
                adapter = api.application.url_map.bind("x")
                path = adapter.build(rule.endpoint, {argument: value} if argument else {})
            for method in (rule.methods or set()) - {"HEAD"}:  # HEAD is a GET without the body
                options: dict[str, Any] = {"json": AT} if rule.endpoint == "progress.mark" else {}
                if rule.endpoint == "progress.mark_lessons":
                    lessons = [{"lessonId": uuid4(number), **AT} for number in (2, 3, 4, 0x99)]
                    options = {"json": {"lessons": lessons}}
                if rule.endpoint == "progress.start_all_over":
                    options = {"query_string": {"all": "true"}}
                if rule.endpoint == "stripe.webhook":
                    payload = json.dumps(event("updated", subscription()))
                    options = {"data": payload, "headers": signed(payload)}
                found[f"{method} {path}"] = Call(method, path, options)
    return found


def tricks(theirs: list[str], my_tag: str, their_tag: str) -> dict[str, dict[str, Any]]:
    """Return what a caller may add to a call to name the other learner. `theirs` are ETags of the other learner."""
    mine, their_token = token(), token(OTHER)
    my_cookie, their_cookie = cookie(name=V5_SECURE)["Cookie"], cookie(OTHER)["Cookie"]
    their_value = cookie(OTHER, name=V5_SECURE)["Cookie"].partition("=")[2]
    by_cookie = {"Authorization": None, "Cookie": my_cookie, "Sec-Fetch-Site": "same-origin"}
    names = (
        "X-User-Id",
        "X-User",
        "User-Id",
        "Remote-User",
        "X-Remote-User",
        "X-Forwarded-User",
        "X-Auth-Request-User",
    )
    return {
        "nothing": {},
        "a cookie": {"headers": by_cookie},
        "their id in headers": {"headers": dict.fromkeys(names, OTHER)},
        "their address in headers": {"headers": {"From": EMAIL, "X-Forwarded-Email": EMAIL}},
        "their token in other headers": {
            "headers": dict.fromkeys(
                ("Proxy-Authorization", "X-Authorization", "X-Access-Token"), f"Bearer {their_token}"
            )
        },
        "two tokens, mine first": {"headers": {"Authorization": f"Bearer {mine}, Bearer {their_token}"}},
        "two tokens, theirs first": {"headers": {"Authorization": f"Bearer {their_token},Bearer {mine}"}},
        "my token and their cookie": {"headers": {"Cookie": their_cookie}},
        "my token and their database session": {"headers": {"Cookie": f"{V5_SECURE}={DATABASE_SESSION}"}},
        "my cookie, then theirs": {"headers": by_cookie | {"Cookie": f"{my_cookie}; {their_cookie}"}},
        "their cookie, then mine, which counts": {"headers": by_cookie | {"Cookie": f"{their_cookie}; {my_cookie}"}},
        "my cookie, then their database session": {
            "headers": by_cookie | {"Cookie": f"{my_cookie}; next-auth.session-token={DATABASE_SESSION}"}
        },
        "two cookies of one name": {"headers": by_cookie | {"Cookie": f"{my_cookie}; {V5_SECURE}={their_value}"}},
        "two cookies as gunicorn joins them": {"headers": by_cookie | {"Cookie": f"{my_cookie},{their_cookie}"}},
        "my cookie in chunks, and one of theirs": {
            "headers": by_cookie | {"Cookie": f"{my_cookie}; {V5_SECURE}.0={their_value}"}
        },
        "my token with claims of theirs": {
            "headers": {
                "Authorization": "Bearer "
                + token(user_id=LEARNER, userId=OTHER, user_id_=OTHER, email=EMAIL, act={"sub": OTHER})
            }
        },
        "my id in capitals": {"headers": bearer(LEARNER.upper())},
        "their key id": {"headers": {"Authorization": f"Bearer {token(headers={'kid': OTHER})}"}},
        "their id in the query": {
            "query_string": {"userId": OTHER, "user_id": OTHER, "sub": OTHER, "access_token": their_token}
        },
        "their id in the body": {"json": {"userId": OTHER}},
        "their id in the body of a write": {"json": AT | {"user_id": OTHER, "sub": OTHER}},
        "their id in a form": {"data": {"userId": OTHER}},
        "a key that they used": {"headers": KEY},
        "their ETags": {"headers": {"If-None-Match": ", ".join(theirs)}},
        "their weak ETags": {"headers": {"If-None-Match": ", ".join(f"W/{etag}" for etag in theirs)}},
        "their ETags in If-Match": {
            "headers": {"If-Match": ", ".join(theirs), "If-Range": theirs[0], "Range": "bytes=0-"}
        },
        "any ETag": {"headers": {"If-None-Match": "*"}},
        "my tag": {"headers": {"Learner-Tag": my_tag}},
        "their tag": {"headers": {"Learner-Tag": their_tag}},
        "another method": {"headers": {"X-HTTP-Method-Override": "DELETE", "X-Original-URL": f"/users/{OTHER}"}},
        "a proxy's word": {"headers": {"Forwarded": f"for={OTHER}", "X-Forwarded-Host": OTHER, "X-Request-Id": OTHER}},
        "another origin": {
            "headers": by_cookie | {"Sec-Fetch-Site": "cross-site", "Origin": "https://www.example.org"}
        },
    }


# A call with a trick gets the same answer as without it. Or the form of the trick is refused, with one of these codes.
REFUSED = {"unauthenticated", "other_learner", "invalid_body", "unsupported_media_type", "invalid_signature"}


def observe(api, caplog, call: Call, trick: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes, dict[str, Any]]:
    """Make a call. Return its answer and its line of the log, without random and measured values."""
    options = call.options | trick
    headers = bearer() | call.options.get("headers", {}) | trick.get("headers", {})
    options["headers"] = {name: value for name, value in headers.items() if value is not None}
    options["query_string"] = call.options.get("query_string", {}) | trick.get("query_string", {})
    if "data" in trick or "json" in trick:
        options = {name: value for name, value in options.items() if name in trick or name not in ("data", "json")}
    caplog.clear()
    answer = api.open(call.path, method=call.method, **options)
    (line,) = [json.loads(JsonFormatter().format(one)) for one in caplog.records if one.name == "progress.requests"]
    for name in ("time", "duration_ms", "request_id", "backend_pid"):
        line.pop(name, None)
    shown = sorted((name, value) for name, value in answer.headers.items() if name != "X-Request-Id")
    # The metrics differ each time, so they are not compared. Below, they must not name the other learner either.
    body = b"" if call.path == "/metrics" else re.sub(rb'"exportedAt" : "[^"]*"', b"", answer.data)
    if call.path == "/metrics":
        shown = [(name, value) for name, value in shown if name != "Content-Length"]
    for text in (answer.text, str(shown), json.dumps(line), *(one.getMessage() for one in caplog.records)):
        assert OTHER not in text
        assert EMAIL not in text
    # The statements of a write are sent together. An error may come back at different places, so the traceback differs.
    line.pop("traceback", None)
    return answer.status_code, shown, body, line


def learners_own(db: psycopg.Connection) -> None:
    """Restore the learner's own rows, so that each call begins with the same rows."""
    for table in ("progress", "module_completions", "course_completions"):
        db.execute(f"delete from {table} where user_id = %s", [LEARNER])
    db.execute("delete from stripe_subscriptions where user_id = %s", [LEARNER])
    db.execute(
        "insert into subscriptions (user_id, status, current_period_end) values (%s, 'active', '2999-01-01Z')"
        " on conflict (user_id) do update set stripe_subscription_id = null, status = 'active',"
        " current_period_end = '2999-01-01Z', mirrored_period_end = null",
        [LEARNER],
    )
    complete(db, 2)
    at = "2026-01-01T00:00:00Z"
    db.execute("update subscriptions set created_at = %s where user_id = %s", [at, LEARNER])
    db.execute("update progress set created_at = %s, updated_at = %s where user_id = %s", [at, at, LEARNER])


def written(db: psycopg.Connection) -> list[Any]:
    """Return the learner's own rows that a write may have changed."""
    columns = {"progress": "lesson_id, completed_at", "subscriptions": "stripe_subscription_id, current_period_end"}
    columns |= {"module_completions": "module_id, completed_at", "course_completions": "course_id, completed_at"}
    return [
        db.execute(f"select {names} from {table} where user_id = %s order by 1", [LEARNER]).fetchall()
        for table, names in columns.items()
    ]


def others_own(db: psycopg.Connection) -> list[Any]:
    own = (
        *("progress", "module_completions", "course_completions"),
        *("subscriptions", "enrollments", "course_enrollments", "stripe_subscriptions"),
    )
    tables = ["users where id", *(f"{name} where user_id" for name in own)]
    return [db.execute(f"select * from {table} = %s order by 1, 2", [OTHER]).fetchall() for table in tables]


def test_no_answer_and_no_line_of_the_log_depends_on_another_learners_rows(service, world, caplog):
    caplog.set_level("INFO")
    learners_own(world)
    another_with_everything(world, service)
    paths = [PREFIX + path for path in reads(moduleId=[uuid4(1), uuid4(6)], courseId=[uuid4(9), uuid4(10)])]
    theirs = [service.get(path, headers=bearer(OTHER)).headers["ETag"] for path in paths]
    assert not set(theirs) & {service.get(path, headers=bearer()).headers["ETag"] for path in paths}
    tags = [service.get(paths[0], headers=bearer(user_id)).headers["Learner-Tag"] for user_id in (LEARNER, OTHER)]
    every, added = calls(service), tricks(theirs, *tags)
    covered = {service.application.url_map.bind("x").match(call.path, call.method)[0] for call in every.values()}
    assert covered == {rule.endpoint for rule in service.application.url_map.iter_rules()}
    seen: dict[tuple[str, str], list[Any]] = {}
    for make in WORLDS:
        world.execute("delete from users where id = %s", [OTHER])
        world.execute("delete from sessions; delete from rate_limits; delete from stripe_subscriptions")
        learners_own(world)
        make(world, service)
        before = others_own(world)
        for name, call in every.items():
            for trick, addition in added.items():
                # /metrics takes long, so it gets only two of the tricks.
                if call.path == "/metrics" and trick not in ("nothing", "their id in headers"):
                    continue
                writes = call.method in ("POST", "DELETE")
                # The export shows when a row was written.
                if writes or call.path == f"{PREFIX}export":
                    learners_own(world)
                observed = observe(service, caplog, call, addition)
                mine = written(world) if writes else None
                seen.setdefault((name, trick), []).append((*observed, mine))
        assert others_own(world) == before
    for (name, trick), observations in seen.items():
        assert all(one == observations[0] for one in observations), (name, trick)
        status, _, body, _, _ = observations[0]
        plain = seen[name, "nothing"][0]
        if trick not in ("any ETag", "nothing") and (status, body) != (plain[0], plain[2]):
            assert json.loads(body)["code"] in REFUSED, (name, trick)
    statuses = {observations[0][0] for observations in seen.values()}
    assert statuses == {200, 304, 400, 401, 404, 409, 412, 415}


@pytest.mark.parametrize("state", ["P0001", "23505", "53100", "57014", "40001"])
def test_no_failure_tells_of_another_learners_rows(service, world, caplog, state):
    """The text, the detail and the hint of an error of PostgreSQL may contain values of any row."""
    caplog.set_level("DEBUG")
    world.execute(
        "create function fail() returns trigger language plpgsql as $$ begin raise exception using"
        f" errcode = '{state}', message = (select coalesce(string_agg(progress::text, ' '), '') from progress),"
        " detail = (select coalesce(string_agg(id::text, ' '), '') from users), hint = 'bob@example.org'; end $$;"
        " grant execute on function fail() to public;"
        " create trigger fail before insert on progress for each row when (new.lesson_id <> "
        f"'{uuid4(7)}') execute function fail()"
    )
    try:
        seen = []
        for make in (nobody_else, another_without_access):
            make(world, service)
            seen.append(observe(service, caplog, Call("POST", lesson_path(3), {"json": AT}), {}))
    finally:
        world.execute("drop trigger fail on progress; drop function fail()")
    assert seen[0] == seen[1]
    assert seen[0][0] == (500 if state in ("P0001", "23505") else 503)


def test_the_write_limit_is_each_learners_own(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="2 per minute")
    add_user(world, OTHER)
    statuses = [mark(api, 2, OTHER).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert [mark(api, 2).status_code for _ in range(3)] == [200, 200, 429]


def raw(url: str, lines: list[str], path: str) -> tuple[int, bytes]:
    """Send a GET with these header lines, unchanged. Return the status and the body of the answer."""
    host = urlsplit(url)
    with socket.create_connection((str(host.hostname), host.port or 80), timeout=20) as connection:
        text = "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""])
        connection.sendall(text.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_headers_that_come_twice_are_mine_or_refused(environ, world):
    """gunicorn passes on the first of two headers, the last one, or both joined, depending on the header."""
    add_user(world, OTHER)
    complete(world, 2)
    complete(world, 3, 4, 7, 8, user_id=OTHER)
    mine, theirs = f"Authorization: Bearer {token()}", f"Authorization: Bearer {token(OTHER)}"
    my_cookie, their_cookie = f"Cookie: {cookie()['Cookie']}", f"Cookie: {cookie(OTHER)['Cookie']}"
    path = "/api/progress/outline"
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "1", "AUTH_SECRET": SECRET}) as running:
        own, others = raw(running.url, [mine], path), raw(running.url, [theirs], path)
        assert own[0] == others[0] == 200
        assert own != others
        for lines in (
            [mine, f"X-User-Id: {OTHER}", f"X_User_Id: {OTHER}", f"Remote_User: {OTHER}", f"REMOTE_USER: {OTHER}"],
            [mine, f"Authorization_: Bearer {token(OTHER)}", f"HTTP_AUTHORIZATION: Bearer {token(OTHER)}"],
            [mine, their_cookie],
            [their_cookie, mine],
            [my_cookie, f"Authorization: Basic {token(OTHER)}"],
            [mine, theirs],
            [theirs, mine],
            [my_cookie, their_cookie],
            [their_cookie, my_cookie],
        ):
            status, body = raw(running.url, lines, path)
            assert status == 401 or (status, body) == own, lines
            assert OTHER.encode() not in body
