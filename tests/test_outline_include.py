"""GET /outline with `include`: what a page shows at first, in one call and on one snapshot (contract §3)."""

import re
import tempfile
from contextlib import closing
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg.pq import Trace, TransactionStatus

from app.service import service_of
from tests.calls import PREFIX
from tests.conftest import SERVICE
from tests.test_concurrency import in_background, wait_until_blocked
from tests.world import (
    LEARNER,
    STRANGER,
    add_course,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    get,
    mark,
    ok,
    require,
    uuid4,
)

OUTLINE = f"{PREFIX}outline"
BOTH = f"{OUTLINE}?include=completions,courses"
# Text that stands at the end of the answer of GET /courses too.
TITLE = ', "overall" : {"percent" : 0}}'


@pytest.fixture
def world(db):
    """Modules 1 and 2 are in courses, module 3 is in none. Module 1 is completed, and lesson 0x22 is locked."""
    add_user(db)
    add_module(db, 1, 0x11)
    add_module(db, 2, 0x21, 0x22)
    add_module(db, 3, 0x31)
    require(db, 0x22, 0x21)
    add_course(db, 0xC1, 1)
    add_course(db, 0xC2, 2)
    db.execute("update courses set title = title || %s", [TITLE])
    complete_module(db)
    return db


def complete_module(connection: psycopg.Connection) -> None:
    """Write what the mark of lesson 0x11 writes."""
    complete(connection, 0x11)
    connection.execute(
        "insert into module_completions (user_id, module_id, completed_at) values (%s, %s, '2026-01-01T00:00:00Z')",
        [LEARNER, uuid4(1)],
    )


def read(api: FlaskClient, path: str) -> str:
    answer = api.get(path, headers=bearer())
    ok(answer)
    return answer.text


@pytest.mark.parametrize(
    ("query", "members"),
    [
        ("include=completions", ["completions"]),
        ("include=courses", ["courses"]),
        ("include=completions,courses", ["completions", "courses"]),
        ("include=courses,completions", ["completions", "courses"]),
        ("include=courses%2Ccompletions", ["completions", "courses"]),
        ("include=courses&include=completions", ["completions", "courses"]),
        ("x=1&include=courses&Include=x", ["courses"]),
    ],
)
def test_the_outline_stays_byte_for_byte_and_the_members_follow_it(api, world, query, members):
    outline, completions, courses = (read(api, f"{PREFIX}{name}") for name in ("outline", "completions", "courses"))
    included = {
        "completions": completions.removesuffix("\n"),
        "courses": courses.removeprefix('{"courses" : ').rpartition(', "overall" : ')[0],
    }
    added = "".join(f', "{name}" : {included[name]}' for name in members)
    answer = api.get(f"{OUTLINE}?{query}", headers=bearer())
    document = ok(answer)
    assert answer.text == outline.removesuffix("}\n") + added + "}\n"
    assert list(document) == ["modules", "overall", *members]
    whole = {"completions": get(api, "completions"), "courses": get(api, "courses")["courses"]}
    assert {name: document[name] for name in members} == {name: whole[name] for name in members}
    assert whole["completions"]["modules"]
    assert [course["title"] for course in whole["courses"]] == [f"Course c1{TITLE}", f"Course c2{TITLE}"]


def test_without_courses_and_completions_the_members_are_empty(api, db):
    add_user(db)
    add_module(db, 1, 0x11)
    document = get(api, BOTH)
    assert (document["completions"], document["courses"]) == ({"modules": [], "courses": []}, [])


WRONG = [
    *("include=", "include", "include=,", "include=completions,", "include=,courses", "include=completions,,courses"),
    *("include=courses,courses", "include=courses&include=courses", "include=courses&include="),
    *("include=outline", "include=Courses", "include=%20courses", "include=completions%20courses", "include=*"),
    *("include=completions,courses,access", "include=access", "include=completions.modules", "include=%ff"),
]


@pytest.mark.parametrize("query", WRONG)
def test_a_name_that_is_unknown_empty_or_there_twice_is_refused(api, world, query):
    answer = api.get(f"{OUTLINE}?{query}", headers=bearer())
    assert_problem(answer, "invalid_include")
    detail = answer.json["detail"]
    assert "completions" in detail
    assert "courses" in detail


def test_the_session_is_asked_before_and_the_access_after(api, world):
    add_user(world, STRANGER, access=None)
    wrong = f"{OUTLINE}?include=access"
    assert_problem(api.get(wrong), "unauthenticated")
    assert_problem(api.get(wrong, headers=bearer(STRANGER)), "invalid_include")
    # GET /completions answers this learner too. The outline does not, whatever it includes.
    assert_problem(api.get(BOTH, headers=bearer(STRANGER)), "not_enrolled")
    assert_problem(api.get(wrong, headers=bearer() | {"If-None-Match": "*"}), "invalid_include")


@pytest.mark.parametrize("path", ["courses", "modules", "summary", "completions"])
def test_other_calls_take_no_notice_of_include(api, world, path):
    assert read(api, f"{PREFIX}{path}?include=access") == read(api, f"{PREFIX}{path}")


def test_the_etag_is_that_of_the_whole_answer(api, world):
    def etag(path: str) -> str:
        return str(api.get(path, headers=bearer()).headers["ETag"])

    def status(path: str, etag: str) -> int:
        return int(api.get(path, headers=bearer() | {"If-None-Match": etag}).status_code)

    paths = [OUTLINE, f"{OUTLINE}?include=completions", f"{OUTLINE}?include=courses", BOTH]
    before = {path: etag(path) for path in paths}
    assert len(set(before.values())) == len(paths)
    assert [status(path, before[path]) for path in paths] == [304] * 4
    assert etag(f"{OUTLINE}?include=courses,completions") == before[BOTH]
    # Neither the outline nor the courses say when a module was completed.
    world.execute("update module_completions set completed_at = '2026-02-02T00:00:00Z'")
    assert [status(path, before[path]) for path in paths] == [304, 200, 304, 200]
    world.execute("update courses set title = 'Another title'")
    assert [status(path, etag) for path, etag in before.items()] == [304, 200, 200, 200]
    mark(api, 0x21)
    assert [status(path, etag) for path, etag in before.items()] == [200] * 4


def test_head_is_as_get_without_the_body(api, world):
    answer, head = api.get(BOTH, headers=bearer()), api.head(BOTH, headers=bearer())
    assert (head.status_code, head.data) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type", "Learner-Tag"):
        assert head.headers[name] == answer.headers[name]
    assert_problem(api.get(f"{OUTLINE}?include=", headers=bearer()), "invalid_include")
    assert api.head(f"{OUTLINE}?include=", headers=bearer()).status_code == 400


def test_who_is_added_by_this_call_gets_the_answer(make_api, db):
    add_module(db, 1, 0x11, is_free=True)
    document = ok(make_api(NEW_LEARNERS="add-free").get(BOTH, headers=bearer()))
    assert document["overall"]["totalCount"] == 1
    assert document["completions"] == {"modules": [], "courses": []}


def test_all_members_are_of_one_moment(api, world, database_url):
    """What another transaction commits after the first statement and before the second one is in neither of them."""
    world.execute("delete from module_completions")
    world.execute("delete from progress")
    before = get(api, BOTH)
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table module_completions in access exclusive mode")  # outline.sql does not read this table
        complete_module(other)
        with in_background(lambda: api.get(BOTH, headers=bearer())) as answers:
            wait_until_blocked(world)
            other.commit()
    assert ok(answers[0]) == before
    assert get(api, BOTH) != before


def sent(api: FlaskClient, path: str) -> list[str]:
    """Return what a call sends to the database: its statements as far as they are not prepared yet, and `Sync`.

    A Sync is the end of a trip: the service sends nothing more until the answers have come.
    """
    pool = service_of(api.application).pool
    with tempfile.NamedTemporaryFile("r") as trace:
        with pool.connection() as connection:
            connection.pgconn.trace(trace.fileno())
            connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        get(api, path)
        with pool.connection() as connection:
            connection.pgconn.untrace()
        trace.seek(0)  # the library has written through the same descriptor
        return re.findall(r"^F\t.*(Sync|begin|commit|/\* [a-z]+\.sql)", trace.read(), re.M)


def test_all_statements_go_in_one_trip_and_one_alone_needs_no_transaction(make_api, world):
    api = make_api(WEB_THREADS="1")
    assert sent(api, OUTLINE) == ["/* outline.sql", "Sync"]
    included = ["/* completions.sql", "/* courses.sql"]
    assert sent(api, BOTH) == ["begin", "/* outline.sql", *included, "commit", "Sync"]
    for _ in range(10):  # after a few runs psycopg prepares a statement
        for path in (OUTLINE, BOTH):
            get(api, path)
    assert (sent(api, OUTLINE), sent(api, BOTH)) == (["Sync"], ["begin", "commit", "Sync"])


def test_if_the_connection_is_lost_the_statements_run_once_more(make_api, world, database_url):
    api = make_api(WEB_THREADS="1")
    expected = get(api, BOTH)
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table module_completions in access exclusive mode")
        with in_background(lambda: api.get(BOTH, headers=bearer())) as answers:
            wait_until_blocked(world)
            waiting = "select pid from pg_locks where not granted"
            world.execute(f"select pg_terminate_backend(({waiting}), 5000)")
            wait_until_blocked(world)
            other.rollback()
    assert ok(answers[0]) == expected


def test_a_statement_that_fails_is_named_and_leaves_the_connection_clean(make_api, world, caplog):
    api = make_api(WEB_THREADS="1")
    expected = get(api, BOTH)
    world.execute(f"revoke select on course_completions from {SERVICE}")
    try:
        with caplog.at_level("INFO", "progress.requests"):
            assert_problem(api.get(BOTH, headers=bearer()), "internal_error")
    finally:
        world.execute(f"grant select on course_completions to {SERVICE}")
    fields: dict[str, Any] = caplog.records[-1].__dict__["fields"]
    assert fields["statement"] == "completions"
    (connection,) = service_of(api.application).pool._pool
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert get(api, BOTH) == expected
