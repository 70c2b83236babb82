"""Every error of contract §4: its document, its headers, and which error comes first if there are several faults."""

import io
import itertools
import threading
from contextlib import closing
from typing import Any

import psycopg
import pytest
from flask import Response
from flask.testing import FlaskClient
from psycopg.conninfo import conninfo_to_dict

from app.database import statements
from app.service import service_of
from tests.calls import calls, reads
from tests.conftest import as_service
from tests.world import (
    FREE_LEARNER,
    LEARNER,
    STRANGER,
    add_lesson,
    add_module,
    add_user,
    after_outage,
    assert_problem,
    bearer,
    complete,
    completions,
    get,
    impatient,
    lesson_path,
    mark,
    module_path,
    ok,
    require,
    token,
    unmark,
    uuid4,
)

READS = reads()
LARGEST = 16384


@pytest.fixture
def world(db):
    """Lessons 2 and 3 lock lesson 4. Lesson 5 is unpublished, lesson 6 is free. STRANGER has no access."""
    add_user(db)
    add_user(db, FREE_LEARNER, access="free")
    add_user(db, STRANGER, access=None)
    add_module(db, 1, 2, 3, 4)
    add_lesson(db, 1, 5, published=False, is_free=True)
    add_lesson(db, 1, 6, is_free=True)
    add_module(db, 7, 8)
    require(db, 4, 3, 2)
    return db


# Each fault that a mark may have, in the order of the contract's table. A fault changes only its own part of a request.
FAULTS: dict[str, dict[str, Any]] = {
    "unauthenticated": {"session": None},
    "other_learner": {"tag": "another"},
    "cross_site_request": {"site": "cross-site"},
    "invalid_lesson_id": {"lesson": "bad"},
    "invalid_idempotency_key": {"key": "not one"},
    "body_too_large": {"data": b"{}" + b" " * LARGEST},
    "unsupported_media_type": {"content_type": "text/plain"},
    "invalid_body": {"data": b"[1]"},
    "not_enrolled": {"session": STRANGER},
    "lesson_not_found": {"lesson": uuid4(0x99)},
    "lesson_not_available": {"lesson": uuid4(5)},
    "lesson_locked": {"lesson": uuid4(4)},
}

PAIRS = [*((fault,) for fault in FAULTS), *itertools.combinations(FAULTS, 2)]


def with_faults(api, method, *faults):
    """Send a write with these faults. If two faults are in one part of the request, the first of the table is sent."""
    request: dict[str, Any] = {
        "session": LEARNER,
        "site": None,
        "tag": None,
        "lesson": uuid4(2),
        "key": None,
        "data": b"{}",
        "content_type": "application/json",
    }
    for fault in sorted(faults, key=list(FAULTS).index, reverse=True):
        request |= FAULTS[fault]
    headers = {} if request["session"] is None else bearer(request["session"])
    if request["site"]:
        # Send the session in a cookie, because only a write by cookie is checked for its origin. A signed token may be
        # in a cookie too.
        if headers:
            headers = {"Cookie": f"authjs.session-token={token(request['session'])}"}
        headers["Sec-Fetch-Site"] = request["site"]
    if request["tag"]:
        headers["Learner-Tag"] = request["tag"]
    if request["key"]:
        headers["Idempotency-Key"] = request["key"]
    path = f"/api/progress/lessons/{request['lesson']}"
    options = {"data": request["data"], "content_type": request["content_type"]}
    return api.open(path, method=method, headers=headers, **options)


@pytest.mark.parametrize("faults", PAIRS, ids="-".join)
def test_of_two_faults_of_a_mark_the_first_of_the_table_is_answered(api, world, faults):
    members: dict[str, dict[str, Any]] = {
        "invalid_body": {"errors": {}},
        "lesson_locked": {"prerequisites": [uuid4(2), uuid4(3)]},
    }
    assert_problem(with_faults(api, "POST", *faults), faults[0], **members.get(faults[0], {}))
    assert completions(world) == []


def test_all_faults_at_once_go_one_after_the_other(api, world):
    faults = list(FAULTS)
    while faults:
        answer = with_faults(api, "POST", *faults)
        assert answer.get_json()["code"] == faults.pop(0)
    assert ok(with_faults(api, "POST"))["completed"] is True


def test_a_full_window_is_told_before_everything_but_the_session_and_its_origin(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="1 per hour")
    for user_id in (LEARNER, STRANGER):
        mark(api, 2, user_id)
    for method in ("POST", "DELETE"):
        for fault in FAULTS:
            first = fault if fault in ("unauthenticated", "other_learner", "cross_site_request") else "rate_limited"
            assert_problem(with_faults(api, method, fault), first)


NOT_OF_UNMARK = {"unsupported_media_type", "invalid_body", "lesson_locked"}


@pytest.mark.parametrize("faults", PAIRS, ids="-".join)
def test_unmark_answers_in_the_same_cases_but_for_the_body_and_the_lock(api, world, faults):
    complete(world, 2)
    before = completions(world)
    expected = [fault for fault in faults if fault not in NOT_OF_UNMARK]
    answer = with_faults(api, "DELETE", *faults)
    if expected:
        assert_problem(answer, expected[0])
        assert completions(world) == before
    else:
        assert ok(answer)["completed"] is False


@pytest.mark.parametrize("path", READS)
def test_a_read_without_a_session_and_then_without_access(api, world, path):
    assert_problem(api.get(f"/api/progress/{path}"), "unauthenticated")
    answer = api.get(f"/api/progress/{path}", headers=bearer(STRANGER))
    if path == "access":
        assert ok(answer) == {"full": False, "free": False, "courses": [], "until": None}
    elif path == "completions":
        assert ok(answer) == {"modules": [], "courses": []}
    elif path == "export":
        assert ok(answer)["userId"] == STRANGER
    else:
        assert_problem(answer, "not_enrolled")


def test_the_faults_of_a_module_in_their_order(api, world):
    assert_problem(api.get("/api/progress/modules/bad"), "unauthenticated")
    assert_problem(api.get("/api/progress/modules/bad", headers=bearer(STRANGER)), "invalid_module_id")
    for module in (0x99, 7, 1):
        assert_problem(api.get(module_path(module), headers=bearer(STRANGER)), "not_enrolled")
    for module in (0x99, 7):
        assert_problem(api.get(module_path(module), headers=bearer(FREE_LEARNER)), "module_not_found")
    assert_problem(api.get(module_path(0x99), headers=bearer()), "module_not_found")
    assert get(api, module_path(1), FREE_LEARNER)["totalCount"] == 1


@pytest.mark.parametrize(
    ("user_id", "lesson", "code"),
    [
        (STRANGER, 2, "not_enrolled"),
        (STRANGER, 4, "not_enrolled"),
        (STRANGER, 5, "not_enrolled"),
        (STRANGER, 0x99, "not_enrolled"),
        (FREE_LEARNER, 0x99, "lesson_not_found"),
        (FREE_LEARNER, 2, "lesson_not_available"),
        (FREE_LEARNER, 4, "lesson_not_available"),  # the lesson is also locked
        (FREE_LEARNER, 5, "lesson_not_available"),
        (LEARNER, 5, "lesson_not_available"),
        (LEARNER, 0x99, "lesson_not_found"),
    ],
)
def test_a_write_of_what_the_learner_may_not_take(api, world, user_id, lesson, code):
    complete(world, 5, 2, user_id=user_id)
    before = completions(world)
    for write in (mark, unmark):
        assert_problem(write(api, lesson, user_id), code)
    assert completions(world) == before


def test_an_unpublished_lesson_is_unavailable_before_it_is_locked(api, world):
    require(world, 5, 2)
    assert_problem(mark(api, 5), "lesson_not_available")


def test_locked_lists_only_what_is_still_to_be_completed(api, world):
    require(world, 4, 5, 8)  # lesson 5 is unpublished
    complete(world, 2)
    assert_problem(mark(api, 4), "lesson_locked", prerequisites=[uuid4(3), uuid4(8)])


BAD_IDS = [
    *("x", "0", "null", "undefined", "%20", "-", "a" * 36, "00000000-0000-0000-0000-000000000000"),
    "00000002-0000-1000-8000-000000000000",  # version 1
    "00000002-0000-5000-8000-000000000000",
    "00000002-0000-7000-8000-000000000000",
    "00000002-0000-4000-0000-000000000000",  # another variant
    "00000002-0000-4000-7000-000000000000",
    "00000002-0000-4000-c000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    uuid4(2).replace("-", ""),
    "{" + uuid4(2) + "}",
    "urn:uuid:" + uuid4(2),
    *(uuid4(2)[:-1], uuid4(2) + "0", uuid4(2)[:-1] + "g", "g" + uuid4(2)[1:]),
    *(uuid4(2) + tail for tail in ("%0A", "%20", "%00", ".", ";a", "%3F", "%23", ",")),
    *(head + uuid4(2) for head in ("%0A", "%20", "+", "%EF%BB%BF")),
    uuid4(2).replace("-", "\u2010"),
    uuid4(2).replace("0", "\u0660"),
    uuid4(2)[:-1] + "%FF",
    "a" * 8000,
]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_in_the_path_must_be_a_uuid_of_version_4(api, world, bad):
    for kind in ("lesson", "module", "course"):
        for method in ("POST" if kind == "lesson" else "GET", "DELETE"):
            answer = api.open(f"/api/progress/{kind}s/{bad}", method=method, headers=bearer())
            assert_problem(answer, f"invalid_{kind}_id")


UNKNOWN = [
    *("/", "/api", "/api/", "/api/progress", "/api/progress/", "/api/progress/nothing", "/favicon.ico", "/robots.txt"),
    *("/api/progress/summary/", "/api/progress/lessons/", "/api/progress/modules/", "/api/progress/outline/"),
    *(f"/api/progress/lessons/{uuid4(2)}/", f"/api/progress/modules/{uuid4(1)}/", "/api/progress/modules/a/b"),
    *("/API/progress/summary", "/api/progress/Summary", "/progress/summary", "/summary", "/static/x", "/%00", "/%FF"),
    *("/api/progress/modules/a%2Fb", "/api/progress/summary;x", "/api/progress/summary%20", "/api/progress/./summary"),
    *("/api/progress/users/" + LEARNER, "/.env", "/<script>alert(1)</script>", "/api/progress/summary%0A"),
]
DOUBLE = [
    *("//", "///", "//api/progress/summary", "///api/progress/summary", "/api//progress/summary", "/api/progress//"),
    *(
        "/api/progress//summary",
        "/api/progress/summary//",
        f"/api/progress/lessons//{uuid4(2)}",
        "//x",
        "/api/progress//x",
        "//healthz",
        "//openapi.yaml",
        f"//api/progress/lessons/{uuid4(2)}",
    ),
]
# The methods of each path, without its query.
ALLOWED: dict[str, set[str]] = {}
for _method, _path in calls():
    ALLOWED.setdefault(_path.partition("?")[0], set()).update({"GET", "HEAD"} if _method == "GET" else {_method})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO")


@pytest.mark.parametrize("path", UNKNOWN + DOUBLE)
def test_an_unknown_path_is_not_found_before_any_session(api, world, path):
    for method in METHODS:
        for headers in ({}, bearer() | {"Idempotency-Key": "the-key"}, {"Authorization": "Bearer bad"}):
            # Set PATH_INFO itself: the client would take a // at the beginning of a path for the beginning of a host.
            inside = {"PATH_INFO": path} if path in DOUBLE else {}
            answer = api.open("/x" if inside else path, method=method, headers=headers, environ_overrides=inside)
            if method == "HEAD":
                assert (answer.status_code, answer.data) == (404, b"")
            else:
                assert_problem(answer, "not_found")
            assert "Idempotency-Key" not in answer.headers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *ALLOWED.items(),
        ("modules/bad", {"GET", "HEAD", "DELETE"}),
        ("lessons/bad", {"POST", "DELETE"}),
    ],
)
def test_another_method_is_not_allowed_before_any_session(api, world, path, allowed, method):
    for headers in ({}, bearer(), {"Authorization": "Bearer bad"}):
        answer = api.open(f"/api/progress/{path}", method=method, headers=headers)
        if method in allowed:
            assert answer.status_code == (
                401 if not headers or "bad" in headers["Authorization"] else answer.status_code
            )
            assert answer.status_code != 405
        else:
            assert set(answer.headers["Allow"].split(", ")) == allowed
            if method == "HEAD":
                assert (answer.status_code, answer.data) == (405, b"")
            else:
                assert_problem(answer, "method_not_allowed")
    assert [row for row in completions(world) if path == "lessons/bad"] == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
@pytest.mark.parametrize("path", ["/api/progress/summary", lesson_path(2), "/healthz"])
def test_a_request_for_a_websocket_is_not_found(api, world, method, path):
    # The tests' own client would look for a WebSocket request in the OpenAPI document, which has none.
    plain = FlaskClient(api.application, Response)
    headers = bearer() | {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"}
    assert_problem(plain.open(path, method=method, headers=headers), "not_found")
    assert completions(world) == []


def padded(size):
    return b'{"completedAt": null}'.ljust(size)


def chunked(api, method, path, body, **headers):
    """Send a body without a Content-Length, as gunicorn passes on a chunked body."""
    return api.open(
        path,
        method=method,
        headers=bearer() | {"Transfer-Encoding": "chunked", "Content-Type": "application/json"} | headers,
        input_stream=io.BytesIO(body),
        environ_overrides={"wsgi.input_terminated": True},
    )


@pytest.mark.parametrize("size", [LARGEST - 1, LARGEST, LARGEST + 1, LARGEST + 2, 100_000, 1_000_000])
def test_a_body_may_have_16_kib_and_no_byte_more(api, world, size):
    for method in ("POST", "DELETE"):
        for answer in (
            api.open(
                lesson_path(2), method=method, headers=bearer(), data=padded(size), content_type="application/json"
            ),
            chunked(api, method, lesson_path(2), padded(size)),
        ):
            if size <= LARGEST:
                ok(answer)
            else:
                assert_problem(answer, "body_too_large")


def test_a_chunked_body_is_read(api, world):
    answer = chunked(api, "POST", lesson_path(2), b'{"completedAt": "2026-02-03T04:05:06Z"}')
    assert ok(answer)["completedAt"] == "2026-02-03T04:05:06.000Z"
    assert ok(chunked(api, "POST", lesson_path(3), b""))["completed"] is True


def test_a_body_that_ends_early_is_invalid(api, world):
    answer = api.post(
        lesson_path(2),
        headers=bearer(),
        content_type="application/json",
        environ_overrides={"wsgi.input": io.BytesIO(b"{}"), "CONTENT_LENGTH": "100"},
    )
    assert_problem(answer, "invalid_body", errors={})
    assert completions(world) == []


class Broken(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, buffer):
        raise OSError("a chunk of nonsense")


def test_a_body_that_cannot_be_read_is_invalid_and_no_affair_of_unmark(api, world):
    broken = {"wsgi.input": Broken(), "wsgi.input_terminated": True}
    options: dict[str, Any] = {"content_type": "application/json", "environ_overrides": broken}
    assert_problem(mark(api, 2, **options), "invalid_body", errors={})
    assert ok(unmark(api, 2, **options))["completed"] is False


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", "text/plain", "text/html", "text/json", "json", "/json", "application/", "application/jso"),
        *("application/json5", "application/x-json-stream", "application/x-www-form-urlencoded", "multipart/form-data"),
    ],
)
def test_a_body_that_is_not_json_by_its_content_type_is_unsupported(api, world, content_type):
    for body in (b"{}", b"[]", b"not JSON", b" "):
        answer = mark(api, 2, data=body, content_type=content_type)
        assert_problem(answer, "unsupported_media_type")


HOSTILE = [
    *(b" ", b"null", b"true", b"0", b'""', b"[]", b"[{}]", b'"{}"', b"NaN", b"Infinity", b"undefined"),
    *(b"{", b"}", b"{}}", b"{} {}", b"{},", b"{'completedAt': null}", b"{completedAt: null}", b'{"completedAt"}'),
    *(b'{"completedAt": }', b'{"completedAt": null,}', b"{/**/}", b"{}//", b"\x00", b"{}\x00", b"[" * LARGEST),
    b'{"a":' * 3000 + b"1" + b"}" * 1000,
    b'{"completedAt": ' + b"1" * 5000 + b"}",  # Python refuses an int with so many digits
    b'{"completedAt": "\n"}',
    b'{"completedAt": "\\x"}',
    b'{"completedAt": "\xff"}',
    b'{"completedAt": "\xed\xa0\x80"}',  # a lone surrogate in UTF-8
    b"\xef\xbb\xbf{}",  # a byte order mark
    "{}".encode("utf-16"),
    "{}".encode("utf-16-le"),
    "{}".encode("utf-32-be"),
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", HOSTILE)
def test_a_body_that_is_no_json_object_is_invalid(api, world, body):
    assert_problem(mark(api, 2, data=body, content_type="application/json"), "invalid_body", errors={})
    assert completions(world) == []


NO_STRING = ["Must be a string."]


def test_a_body_nested_deeply_is_invalid_whether_python_can_read_it_or_not(api, world):
    answer = mark(api, 2, data=b'{"completedAt": ' + b"[" * 8000 + b"]" * 8000 + b"}", content_type="application/json")
    errors = answer.get_json()["errors"]
    assert errors in ({}, {"completedAt": NO_STRING})  # json cannot read it before Python 3.12, and can from 3.12 on
    assert_problem(answer, "invalid_body", errors=errors)


UNKNOWN_FIELD = ["Unknown field."]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b'{"more": 1}', {"more": UNKNOWN_FIELD}),
        (b'{"": null}', {"": UNKNOWN_FIELD}),
        (b'{"completed_at": null}', {"completed_at": UNKNOWN_FIELD}),
        (b'{"CompletedAt": null}', {"CompletedAt": UNKNOWN_FIELD}),
        (b'{"completedAt ": null}', {"completedAt ": UNKNOWN_FIELD}),
        (b'{"lessonId": 1, "userId": 2}', {"lessonId": UNKNOWN_FIELD, "userId": UNKNOWN_FIELD}),
        (b'{"__proto__": {}, "a.b": []}', {"__proto__": UNKNOWN_FIELD, "a.b": UNKNOWN_FIELD}),
        (b'{"completedAt": 5, "more": 1}', {"completedAt": NO_STRING, "more": UNKNOWN_FIELD}),
        (b'{"completedAt": NaN}', {"completedAt": NO_STRING}),
        (b'{"completedAt": -Infinity}', {"completedAt": NO_STRING}),
        (b'{"completedAt": 1e400}', {"completedAt": NO_STRING}),
        (b'{"completedAt": ' + b"9" * 4000 + b"}", {"completedAt": NO_STRING}),
        (b'{"completedAt": null, "completedAt": 1}', {"completedAt": NO_STRING}),
        (b'{"\\ud800": null}', {"\ud800": UNKNOWN_FIELD}),
        (b'{"\\u0000": null}', {"\0": UNKNOWN_FIELD}),
        ('{"ünïcödé": null}'.encode(), {"ünïcödé": UNKNOWN_FIELD}),
    ],
)
def test_the_errors_of_a_body_name_each_field(api, world, body, errors):
    assert_problem(mark(api, 2, data=body, content_type="application/json"), "invalid_body", errors=errors)
    assert completions(world) == []


def test_a_read_takes_no_notice_of_a_body(api, world):
    for body in (b"not JSON", b" " * 20_000):
        assert ok(api.get("/api/progress/summary", headers=bearer(), data=body, content_type="text/plain"))


@pytest.mark.parametrize("error", [RuntimeError("se-cret"), KeyError("se-cret"), psycopg.DataError("se-cret")])
@pytest.mark.parametrize(("method", "path"), [("GET", "summary"), ("POST", f"lessons/{uuid4(2)}")])
def test_what_nobody_expected_is_an_internal_error_that_tells_nothing(api, world, monkeypatch, method, path, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(statements, "run", fail)
    answer = api.open(f"/api/progress/{path}", method=method, headers=bearer() | {"Idempotency-Key": "the-key"})
    assert_problem(answer, "internal_error")
    assert "se-cret" not in answer.text + str(answer.headers)
    assert "Traceback" not in answer.text
    assert answer.headers.get("Idempotency-Key") == ("the-key" if method == "POST" else None)
    monkeypatch.undo()
    ok(api.open(f"/api/progress/{path}", method=method, headers=bearer()))


def test_a_broken_statement_is_an_internal_error_and_the_next_request_is_fine(api, world, monkeypatch):
    broken = statements.Statement("broken", b"select nothing from nowhere", ())
    for name in ("summary", "mark"):
        monkeypatch.setitem(statements.STATEMENTS, name, broken)
    assert_problem(api.get("/api/progress/summary", headers=bearer()), "internal_error")
    assert_problem(mark(api, 2), "internal_error")
    monkeypatch.undo()
    assert get(api, "summary")["completedCount"] == 0
    assert ok(mark(api, 2))["completed"] is True


def assert_unavailable(answer, key=None):
    assert_problem(answer, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers.get("Idempotency-Key") == key


def test_a_statement_that_waits_too_long_is_unavailable(make_api, world, database_url):
    api = impatient(make_api(WEB_THREADS="1"))
    key = {"Idempotency-Key": "the-key"}
    with psycopg.connect(database_url) as other:
        other.execute("lock table progress, enrollments in access exclusive mode")
        for path in READS:
            assert_unavailable(api.get(f"/api/progress/{path}", headers=bearer()))
        for write in (mark, unmark):
            assert_unavailable(write(api, 2, headers=key), "the-key")
    assert completions(world) == []
    assert ok(mark(api, 2))["completed"] is True


def test_no_connection_in_time_is_unavailable(make_api, world, database_url):
    api = make_api(DATABASE_TIMEOUT="0.4", WEB_THREADS="1")
    pool = service_of(api.application).pool
    with pool.connection():
        for path in READS:
            assert_unavailable(api.get(f"/api/progress/{path}", headers=bearer()))
        for write in (mark, unmark):
            assert_unavailable(write(api, 2))
    assert ok(after_outage(lambda: mark(api, 2)))["completed"] is True


def test_what_needs_no_database_is_answered_without_it(make_api, world):
    api = make_api(DATABASE_TIMEOUT="0.2", WEB_THREADS="1")
    pool = service_of(api.application).pool
    with pool.connection():
        assert_problem(api.get("/api/progress/summary"), "unauthenticated")
        assert_problem(api.get("/api/progress/modules/bad", headers=bearer()), "invalid_module_id")
        assert_problem(mark(api, 2, data="[]", content_type="application/json"), "invalid_body", errors={})
        assert_problem(api.get("/nowhere"), "not_found")


@pytest.fixture
def cut_off(postgres, database_url):
    """Yield a function that ends an app's connections. New ones are refused until the end of the test."""
    name = conninfo_to_dict(database_url)["dbname"]
    with closing(psycopg.connect(postgres.url(), autocommit=True)) as maintenance:

        def cut(api):
            with service_of(api.application).pool.connection() as connection:
                pid = connection.info.backend_pid
            maintenance.execute(f'alter database "{name}" allow_connections false')
            maintenance.execute("select pg_terminate_backend(%s, 10000)", [pid])

        yield cut
        maintenance.execute(f'alter database "{name}" allow_connections true')


def test_a_database_that_is_down_is_unavailable(make_api, world, cut_off):
    api = make_api(DATABASE_TIMEOUT="0.2", WEB_THREADS="1")
    cut_off(api)
    for path in READS:
        assert_unavailable(api.get(f"/api/progress/{path}", headers=bearer()))
    for write in (mark, unmark):
        assert_unavailable(write(api, 2))


def test_a_write_that_loses_its_connection_is_unavailable_and_not_done(api, world, database_url):
    answers = []
    with psycopg.connect(database_url) as other:
        other.execute("select from users where id = %s for update", [LEARNER])
        thread = threading.Thread(target=lambda: answers.append(mark(api, 2)))
        thread.start()
        ended = None
        while ended is None and thread.is_alive():
            ended = world.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            ).fetchone()
        thread.join()
    assert_unavailable(answers[0])
    assert completions(world) == []


def test_a_database_that_takes_no_writes_is_unavailable_to_them(make_api, world, database_url):
    url = f"{as_service(database_url)}&options=-c%20default_transaction_read_only%3Don"
    assert_problem(make_api(DATABASE_URL=url).get("/api/progress/summary", headers=bearer()), "unavailable")
    api = make_api(DATABASE_URL=f"{url}&target_session_attrs=any")
    assert api.get("/api/progress/summary", headers=bearer()).status_code == 200
    assert_problem(mark(api, 2), "unavailable")
