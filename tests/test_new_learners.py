"""NEW_LEARNERS: a person with a valid session becomes a learner, and so does a person who pays."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from app.database import readiness
from app.settings import from_environ
from tests.conftest import SERVICE, as_service, grant, running_gunicorn
from tests.test_cli import run
from tests.test_rights import RIGHTS
from tests.test_stripe import (
    DAY,
    NEW,
    OLD,
    T0,
    checkout,
    copied,
    event,
    outcome,
    subscription,
    sync,  # noqa: F401
)
from tests.test_stripe import SECRET as WEBHOOK_SECRET
from tests.world import (
    LEARNER,
    STRANGER,
    add_module,
    add_user,
    assert_problem,
    bearer,
    get,
    lesson_path,
    mark,
    module_path,
    ok,
    unmark,
    uuid4,
)

NOW = int(time.time())
SUMMARY = "/api/progress/summary"
FREE, PAID = 2, 3
ADDED, FREELY = {"NEW_LEARNERS": "add"}, {"NEW_LEARNERS": "add-free"}
NOTHING = {"full": False, "free": False, "courses": [], "until": None}


@pytest.fixture
def world(db: psycopg.Connection) -> psycopg.Connection:
    """A module with a free lesson and another lesson. There are no learners."""
    add_module(db, 1, PAID)
    db.execute("insert into lessons values (%s, %s, 'Free', 0, true, true)", [uuid4(FREE), uuid4(1)])
    return db


def users(db: psycopg.Connection) -> list[str]:
    return [user_id for (user_id,) in db.execute("select id::text from users order by 1")]


def enrollments(db: psycopg.Connection) -> list[Any]:
    return db.execute("select user_id::text, expires_at from enrollments order by 1").fetchall()


READS = (
    SUMMARY,
    module_path(1),
    *(f"/api/progress/{name}" for name in ("lessons", "modules", "outline", "courses", "next")),
)


ANSWERED = ("access", "completions", "export")  # also for who is not enrolled


@pytest.mark.parametrize("setting", [{}, {"NEW_LEARNERS": "refuse"}])
def test_with_refuse_nobody_is_added(make_api, world, setting):
    api = make_api(**setting)
    for path in READS:
        assert_problem(api.get(path, headers=bearer()), "not_enrolled")
    for write in (mark, unmark):
        assert_problem(write(api, FREE), "not_enrolled")
    assert get(api, "access") == NOTHING
    assert users(world) == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", [*READS, *(f"/api/progress/{name}" for name in ANSWERED)])
def test_with_add_free_the_first_read_adds_the_learner_with_free_access(make_api, world, path, method):
    api = make_api(**FREELY)
    assert api.open(path, method=method, headers=bearer()).status_code == 200
    assert (users(world), enrollments(world)) == ([LEARNER], [(LEARNER, None)])
    assert get(api, "access") == NOTHING | {"free": True}
    assert get(api, "summary") == {"percent": 0, "completedCount": 0, "totalCount": 1}


def test_with_add_free_the_first_call_may_be_a_write_which_is_done(make_api, world):
    api = make_api(**FREELY)
    answer = ok(mark(api, FREE))
    assert (answer["completed"], answer["overall"]) == (True, {"percent": 100, "completedCount": 1, "totalCount": 1})
    assert ok(unmark(api, FREE, STRANGER))["completed"] is False
    assert users(world) == sorted([LEARNER, STRANGER])


def test_who_is_added_gets_the_answer_that_every_free_learner_gets(make_api, world):
    api = make_api(**FREELY)
    assert_problem(mark(api, PAID), "lesson_not_available")
    assert_problem(mark(api, 0x99, STRANGER), "lesson_not_found")
    assert_problem(api.get(module_path(9), headers=bearer(uuid4(5))), "module_not_found")
    assert len(users(world)) == 3


@pytest.mark.parametrize("path", [*READS, "/api/progress/access"])
def test_with_add_a_learner_gets_a_row_in_users_and_no_access(make_api, world, path):
    api = make_api(**ADDED)
    for _ in range(2):
        answer = api.get(path, headers=bearer())
        if path.endswith("access"):
            assert ok(answer) == NOTHING
        else:
            assert_problem(answer, "not_enrolled")
    assert_problem(mark(api, FREE), "not_enrolled")
    assert (users(world), enrollments(world)) == ([LEARNER], [])
    # With `add`, the learner exists after signing in once. Now the site, or an operator, can give access.
    world.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
    assert get(api, "summary")["totalCount"] == 1


def test_nothing_is_added_for_a_session_that_is_refused_or_a_call_that_ends_earlier(make_api, world):
    api = make_api(**FREELY)
    assert_problem(api.get(SUMMARY), "unauthenticated")
    assert_problem(api.get(SUMMARY, headers={"Authorization": "Bearer x"}), "unauthenticated")
    assert_problem(api.get("/api/progress/modules/bad", headers=bearer()), "invalid_module_id")
    assert_problem(mark(api, FREE, data="[]", content_type="application/json"), "invalid_body", errors={})
    assert_problem(mark(api, FREE, headers={"Learner-Tag": "another"}), "other_learner")
    assert users(world) == []


def test_an_enrolled_learner_costs_no_statement_more_and_gets_no_row_more(make_api, world, monkeypatch):
    api = make_api(**FREELY)
    add_user(world)
    monkeypatch.setattr("app.progress.add_learner", lambda: pytest.fail("asked"))
    assert get(api, "summary")["totalCount"] == 2
    assert ok(mark(api, PAID))
    assert get(api, "access")["full"] is True
    assert enrollments(world) == []


@pytest.mark.parametrize("expires", ["now()", "now() - interval '1 year'", "'-infinity'"])
def test_an_enrollment_that_has_ended_is_not_renewed(make_api, world, expires):
    api = make_api(**FREELY)
    add_user(world, access=None)
    world.execute(f"insert into enrollments (user_id, expires_at) values (%s, {expires})", [LEARNER])
    before = world.execute("select expires_at::text, created_at from enrollments").fetchall()
    for call in (lambda: api.get(SUMMARY, headers=bearer()), lambda: mark(api, FREE)):
        assert_problem(call(), "not_enrolled")
    assert get(api, "access") == NOTHING
    assert world.execute("select expires_at::text, created_at from enrollments").fetchall() == before


@pytest.mark.parametrize("granted", [False, True])
def test_revoke_free_holds_against_add_free(make_api, world, database_url, granted):
    api = make_api(**FREELY)
    add_user(world, access="free" if granted else None)
    assert run(database_url, "revoke-free", USER=LEARNER)[0] == 0
    assert_problem(api.get(SUMMARY, headers=bearer()), "not_enrolled")
    assert run(database_url, "grant-free", USER=LEARNER)[0] == 0
    assert get(api, "summary")["totalCount"] == 1


def test_who_is_in_users_and_never_had_free_access_gets_it(make_api, world):
    """The site has added one learner. The other one's subscription has ended."""
    api = make_api(**FREELY)
    add_user(world, access=None)
    add_user(world, STRANGER, access="full")
    world.execute("update subscriptions set current_period_end = now()")
    for user_id in (LEARNER, STRANGER):
        assert get(api, "summary", user_id)["totalCount"] == 1
    assert enrollments(world) == [(STRANGER, None), (LEARNER, None)]


def test_a_write_that_adds_its_learner_is_one_hit_of_the_limit(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="2 per minute", **FREELY)
    assert [mark(api, FREE).status_code for _ in range(3)] == [200, 200, 429]


def test_a_write_over_the_limit_adds_nobody(make_api, world):
    api = make_api(RATE_LIMIT_WRITES="1 per minute", **FREELY)
    mark(api, FREE)
    world.execute("delete from users")
    assert_problem(mark(api, FREE), "rate_limited")
    assert users(world) == []


# Concurrency


def answers(url: str, requests: list[tuple[str, str]]) -> list[int]:
    """Send calls of one learner together. Return their statuses."""
    start = threading.Barrier(len(requests))

    def send(request: tuple[str, str]) -> int:
        method, path = request
        start.wait()
        try:
            asked = urllib.request.Request(f"{url}{path}", method=method, headers=bearer())
            with urllib.request.urlopen(asked, timeout=60) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


def test_first_calls_at_one_moment_add_a_learner_once_and_all_succeed(environ, world):
    together = [("GET", path) for path in (*READS, "/api/progress/access")]
    together += [("POST", lesson_path(FREE))] * 3 + [("DELETE", lesson_path(FREE))] * 2
    with running_gunicorn(environ | FREELY | {"WEB_CONCURRENCY": "2", "WEB_THREADS": "4"}) as service:
        for _ in range(5):
            world.execute("delete from users")
            assert answers(service.url, together) == [200] * len(together)
            assert (users(world), enrollments(world)) == ([LEARNER], [(LEARNER, None)])


def waits_for_a_lock(db: psycopg.Connection, application: str = "progress-tracking") -> bool:
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = %s"
    return db.execute(query, [application]).fetchone() == (1,)


@pytest.mark.parametrize("kept", [True, False])
def test_a_call_waits_for_another_that_is_adding_the_learner(make_api, world, database_url, kept):
    """The other call commits, or is rolled back. Both end the same."""
    api = make_api(**FREELY)
    with psycopg.connect(database_url) as other:
        other.execute("insert into users (id) values (%s)", [LEARNER])
        other.execute("insert into enrollments (user_id) values (%s)", [LEARNER])
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(api.get, SUMMARY, headers=bearer())
            while not waits_for_a_lock(world):
                assert not answer.done()
            other.commit() if kept else other.rollback()
            assert ok(answer.result())["totalCount"] == 1
    assert (users(world), enrollments(world)) == ([LEARNER], [(LEARNER, None)])


def test_a_learner_who_was_added_between_two_statements_of_a_call_is_enrolled(make_api, world, monkeypatch):
    """The first statement of the call does not see the learner, and the second one does."""
    api = make_api(**FREELY)
    pool = api.application.extensions["progress"].pool
    read = pool.read

    def read_and_add(name, **parameters):
        row = read(name, **parameters)
        if name == "summary" and not users(world):
            add_user(world, access="free")
        return row

    monkeypatch.setattr(pool, "read", read_and_add)
    assert get(api, "summary")["totalCount"] == 1


# What Stripe keeps

SETTINGS = {"STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET, "SUBSCRIPTION_GRACE": "0"}


@pytest.fixture
def stripe(make_api: Callable[..., Any], world: psycopg.Connection) -> Callable[..., Any]:
    """Return a function that makes a service with the webhook."""
    return lambda **settings: make_api(**SETTINGS | settings)


@pytest.mark.parametrize("setting", [ADDED, FREELY])
@pytest.mark.parametrize("by_checkout", [False, True])
@pytest.mark.parametrize("call", ["access", "summary", "mark"])
def test_who_is_added_gets_in_the_same_call_what_stripe_keeps(stripe, world, setting, by_checkout, call):
    before = stripe()  # a service with NEW_LEARNERS=refuse stores the event first
    named = subscription(metadata={}) if by_checkout else subscription()
    assert outcome(before, event("created", named)) == "unattached"
    if by_checkout:
        assert outcome(before, checkout()) == "unattached"
    api = stripe(**setting)
    if call == "mark":
        assert ok(mark(api, PAID))["completed"] is True
    elif call == "summary":
        assert get(api, "summary")["totalCount"] == 2
    else:
        assert get(api, "access")["full"] is True
    assert copied(world) == (NEW, "active", T0 + 30 * DAY)
    assert enrollments(world) == ([(LEARNER, None)] if setting == FREELY else [])


def test_who_is_added_gets_the_best_of_several_customers(stripe, world):
    before = stripe()
    outcome(before, event("created", subscription(name=OLD, end=T0 + 60 * DAY)))
    outcome(before, event("created", subscription(customer="cus_other")))
    outcome(before, event("created", subscription("canceled", name="sub_gone", customer="cus_third")))
    assert get(stripe(**ADDED), "access")["full"] is True
    assert copied(world) == (OLD, "active", T0 + 60 * DAY)
    owners = world.execute("select distinct user_id::text from stripe_subscriptions").fetchall()
    assert owners == [(LEARNER,)]


def test_a_price_that_does_not_count_gives_nothing_to_who_is_added(stripe, world):
    outcome(stripe(), event("created", subscription()))
    assert get(stripe(STRIPE_PRICES="price_other", **ADDED), "access") == NOTHING
    assert (users(world), copied(world)) == ([LEARNER], None)


def test_make_add_user_gives_what_stripe_keeps_too(stripe, world, database_url):
    outcome(stripe(), event("created", subscription()))
    limited = {"SUBSCRIPTION_GRACE": "1 day", "STRIPE_PRICES": "price_1"}
    assert run(database_url, "add-user", USER=LEARNER, **limited) == (0, f"added {LEARNER}\n", "")
    assert copied(world) == (NEW, "active", T0 + 31 * DAY)


# Stripe's events


ENDED = subscription(end=NOW - DAY)


@pytest.mark.parametrize("setting", [ADDED, FREELY])
@pytest.mark.parametrize(
    ("events", "last"),
    [
        ([event("created", subscription())], "applied"),
        ([event("created", subscription("trialing"))], "applied"),
        ([event("created", subscription(metadata={})), checkout()], "applied"),
        ([checkout(), event("created", subscription(metadata={}))], "applied"),
        ([event("created", subscription("incomplete"), NOW), event("updated", subscription(), NOW + 1)], "applied"),
    ],
)
def test_an_event_that_gives_access_adds_its_learner(stripe, world, setting, events, last):
    api = stripe(**setting)
    assert [outcome(api, each) for each in events][-1] == last
    assert copied(world)[0] == NEW
    # The learner has full access, so add-free does not add free access.
    assert (users(world), enrollments(world)) == ([LEARNER], [])
    assert get(api, "access")["full"] is True


@pytest.mark.parametrize(
    ("events", "settings"),
    [
        ([checkout()], {}),
        ([event("created", subscription("incomplete"))], {}),
        ([event("created", subscription("past_due"))], {}),
        ([event("created", subscription("canceled"))], {}),
        ([event("deleted", subscription())], {}),
        ([event("created", ENDED)], {}),
        ([event("created", subscription(end=None))], {}),
        ([event("created", subscription())], {"STRIPE_PRICES": "price_other"}),
        ([event("created", subscription("incomplete", metadata={})), checkout()], {}),
        ([event("created", subscription(metadata={"userId": "no uuid"}))], {}),
        ([event("created", subscription(metadata={}))], {}),
    ],
)
def test_an_event_that_gives_no_access_adds_nobody(stripe, world, events, settings):
    api = stripe(**ADDED, **settings)
    assert [outcome(api, each) for each in events] == ["unattached"] * len(events)
    assert (users(world), copied(world)) == ([], None)


def test_the_grace_counts_as_access(stripe, world):
    assert outcome(stripe(**ADDED, SUBSCRIPTION_GRACE="2 days"), event("created", ENDED)) == "applied"
    assert users(world) == [LEARNER]


def test_of_two_learners_of_one_customer_the_one_who_pays_is_added(stripe, world):
    api = stripe(**ADDED)
    gone = subscription("canceled", name=OLD, metadata={"userId": STRANGER})
    assert outcome(api, event("deleted", gone)) == "unattached"
    assert outcome(api, event("created", subscription())) == "applied"
    assert users(world) == [LEARNER]
    owners = world.execute("select stripe_subscription_id, user_id::text from stripe_subscriptions order by 1")
    assert dict(owners.fetchall()) == {NEW: LEARNER, OLD: None}
    again = subscription(name=OLD, metadata={"userId": STRANGER})
    assert outcome(api, event("updated", again | {"id": "sub_third"})) == "applied"
    assert users(world) == [STRANGER, LEARNER]


def test_with_refuse_an_event_adds_nobody(stripe, world):
    assert outcome(stripe(), event("created", subscription())) == "unattached"
    assert users(world) == []


@pytest.mark.parametrize("setting", ["refuse", "add", "add-free"])
def test_a_sync_adds_as_the_events_do_that_were_lost(world, sync, setting):  # noqa: F811
    status, _ = sync(
        subscription(), subscription("canceled", name=OLD, metadata={"userId": STRANGER}), NEW_LEARNERS=setting
    )
    assert status == 0
    assert users(world) == ([] if setting == "refuse" else [LEARNER])


def test_an_event_and_the_first_call_at_one_moment_leave_the_learner_with_both(stripe, world, database_url):
    """The event waits for the row that the call adds, or the call waits for the customer that the event has locked."""
    api = stripe(**FREELY)
    for number in range(10):
        world.execute("delete from users; delete from stripe_subscriptions; delete from stripe_customers")
        if number % 2:
            outcome(stripe(), event("created", subscription("incomplete"), NOW))
        start = threading.Barrier(2)

        def together(call: Callable[[], Any], start: threading.Barrier = start) -> Any:
            start.wait()
            return call()

        with ThreadPoolExecutor(2) as pool:
            sold = pool.submit(together, lambda: outcome(api, event("updated", subscription(), NOW + 1)))
            read = pool.submit(together, lambda: get(api, "access"))
            assert sold.result() == "applied"
            assert read.result()["full"] or read.result()["free"]
        assert users(world) == [LEARNER]
        assert copied(world) == (NEW, "active", T0 + 30 * DAY)
        assert get(api, "access")["full"] is True


# A site's own users, and the rights


@pytest.fixture
def site(new_database: Callable[[], str]) -> Iterator[tuple[str, psycopg.Connection]]:
    """Yield the service's URL of a database whose users table is the site's and has LEARNER, and a connection."""
    url = new_database()
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        connection.execute("create table users (id uuid primary key, email text not null default '')")
        connection.execute("insert into users (id) values (%s)", [LEARNER])
        assert run(url, "migrate")[0] == 0
        grant(url)
        add_module(connection, 1, FREE, is_free=True)
        yield as_service(url), connection


def refused(environ: dict[str, str]) -> str | None:
    try:
        readiness.check(from_environ(environ))
    except readiness.NotReadyError as error:
        return str(error)
    return None


def test_add_is_refused_at_the_start_where_users_is_the_sites_own(site, environ, make_api):
    told = refused(environ | {"DATABASE_URL": site[0]} | ADDED)
    assert told == (
        "NEW_LEARNERS: add would write the table users, which is the site's own; add-free gives free access to"
        " everybody in it, refuse leaves all to the site"
    )
    answer = make_api(DATABASE_URL=site[0], **ADDED).get("/readyz")
    assert (answer.status_code, answer.json["detail"]) == (503, f"{told}.")


def test_add_free_gives_the_enrollment_alone_where_users_is_the_sites_own(site, environ, make_api):
    url, connection = site
    assert refused(environ | {"DATABASE_URL": url} | FREELY) is None
    rights = connection.execute(RIGHTS, {"role": SERVICE}).fetchall()
    assert {right for right, table in rights if table == "users"} == {"SELECT (id)", "UPDATE (id)"}
    api = make_api(DATABASE_URL=url, **SETTINGS, **FREELY)
    assert api.get("/readyz").status_code == 200
    assert get(api, "summary")["totalCount"] == 1
    for _ in range(2):
        assert_problem(api.get(SUMMARY, headers=bearer(STRANGER)), "not_enrolled")
        assert_problem(mark(api, FREE, STRANGER), "not_enrolled")
        assert get(api, "access", STRANGER) == NOTHING
        assert outcome(api, event("created", subscription(metadata={"userId": STRANGER}))) == "unattached"
    assert (users(connection), enrollments(connection)) == ([LEARNER], [(LEARNER, None)])
    # When the site has added the person, the next call gives free access and the subscription at Stripe.
    connection.execute("insert into users (id) values (%s)", [STRANGER])
    told = get(api, "access", STRANGER)
    assert (told["full"], told["free"]) == (True, True)


@pytest.mark.parametrize(
    ("revoked", "setting", "tables"),
    [
        ("insert (id) on users", "add", "users"),
        ("insert (id) on users", "add-free", "users"),
        ("insert (user_id) on enrollments", "add-free", "enrollments"),
        ("insert (user_id) on enrollments", "add", None),
        ("insert (id) on users", "refuse", None),
        ("insert (user_id) on enrollments", "refuse", None),
    ],
)
def test_a_role_that_lacks_a_right_is_refused_if_the_setting_needs_it(
    make_api, environ, db, database_url, revoked, setting, tables
):
    db.execute(f"revoke {revoked} from {SERVICE}")
    try:
        told = refused(environ | {"NEW_LEARNERS": setting})
        answer = make_api(NEW_LEARNERS=setting).get("/readyz")
    finally:
        grant(database_url)
    expected = tables and (
        f"NEW_LEARNERS: the role {SERVICE} may not add rows to: {tables}; was deploy/grants.sql run after make migrate?"
    )
    assert told == expected
    assert (answer.status_code, answer.json.get("detail")) == ((503, f"{expected}.") if tables else (200, None))


def test_pending_migrations_are_told_of_whatever_the_setting(new_database, environ):
    url = new_database()
    told = refused(environ | {"DATABASE_URL": url} | FREELY)
    assert told
    assert told.startswith("pending migrations: 0001_users")
