"""deploy/grants.sql: the role of the service may do what the statements of the service need, and nothing else."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import stripe
from flask.testing import FlaskClient
from psycopg.pq import ExecStatus

from app.database import readiness, statements
from app.demo.postgres import bindir
from app.events import outbox
from app.service import service_of
from app.settings import from_environ
from tests.calls import PREFIX, needed, reads, writes
from tests.conftest import ROOT, SERVICE, Postgresql, as_service, grant, migrate
from tests.pages import block
from tests.world import FREE_LEARNER, LEARNER, STRANGER, add_course, add_module, add_user, bearer, lesson_path, uuid4

WEBHOOK_SECRET = "whsec_of_the_tests"
NUMBERS = itertools.count(1)
COURSE = uuid4(0xA)
READER = uuid4(0xC)  # Stripe says nothing of this learner, who therefore keeps the access
MARK = ("POST", f"lessons/{uuid4(2)}")

# A query for each right of the role and its object, for instance `UPDATE (id)` on `users`.
RIGHTS = """
    select privilege_type, oid::regclass::text
    from (select oid, (aclexplode(relacl)).* from pg_class) as on_tables
    where grantee = %(role)s::regrole
    union all
    select format('%%s (%%I)', privilege_type, attname), attrelid::regclass::text
    from (select attrelid, attname, (aclexplode(attacl)).* from pg_attribute) as on_columns
    where grantee = %(role)s::regrole
"""


def send(api: FlaskClient, kind: str, document: dict[str, object], created: int) -> int:
    event = {"id": f"evt_{next(NUMBERS)}", "type": kind, "created": created, "data": {"object": document}}
    payload = json.dumps(event)
    header = stripe.WebhookSignature.generate_signature_header(payload, WEBHOOK_SECRET)
    return api.post("/api/stripe/webhook", data=payload, headers={"Stripe-Signature": header}).status_code


def events(environ: dict[str, str], user_id: str) -> str:
    """Add two events, deliver one, let the other become due, and remove what has expired. Return what came of it."""
    with (
        closing(psycopg.connect(environ["DATABASE_URL"], cursor_factory=psycopg.RawCursor)) as service,
        service.transaction(force_rollback=True),
    ):
        learners = f"{{{user_id}}}"
        try:
            statements.run(service, "lock", user_id=user_id)
            for name, parameters in outbox.adding(user_id, [{"type": "lesson.completed", "data": {}}] * 2):
                statements.run(service, name, **parameters)
            for _ in range(2):
                for claimed_by, number, claimed_at, *_ in statements.run(service, "events/claim", limit="1").fetchall():
                    attempt = {"userId": str(claimed_by), "id": number, "claimedAt": claimed_at}
                    statements.run(service, "events/lock", user_id=user_id)
                    statements.run(service, "events/record", attempts=json.dumps([attempt | {"delivered": True}]))
                    statements.run(service, "events/promote", user_ids=learners)
            statements.run(service, "events/expire")
            return str(statements.run(service, "events/counts").fetchone())
        except psycopg.Error as error:
            return str(error.sqlstate)


def everything(api: FlaskClient, db: psycopg.Connection, environ: dict[str, str]) -> Iterator[int | str]:
    """Yield the answers of the service, with data for which each of its statements has something to do.

    The readiness and the writes come first, because they need most of the rights, and the reads come late: readiness
    already tells what they lack.
    """
    db.execute(
        "delete from stripe_checkouts; delete from stripe_customers; delete from stripe_reversals;"
        " delete from users; delete from rate_limits"
    )
    add_user(db)
    add_user(db, FREE_LEARNER, access=None)
    add_user(db, READER)
    # Expired rows of the write limit, so that the next hit deletes one.
    db.execute(
        "insert into rate_limits select chr(n), '{}', now() - interval '1 day' from generate_series(48, 125) as n"
    )
    # Forget the key of Learner-Tag, so that the service reads it from the database. It does this in a new process if no
    # setting has a secret.
    service_of(api.application).learner_tag_key = None
    try:
        readiness.check(from_environ(environ))
    except readiness.NotReadyError as error:
        yield str(error)
    yield api.get("/readyz").status_code
    # A lesson is marked, and marked again. The last write is over the limit.
    for method, path in (MARK, *writes(), MARK):
        yield api.open(PREFIX + path, method=method, headers=bearer(), **needed(method, path)).status_code
    yield events(environ, LEARNER)
    sold: dict[str, object] = {
        "id": "sub_1",
        "customer": "cus_1",
        "status": "active",
        "current_period_end": 1_900_000_000,
    }
    for learner, at in ((FREE_LEARNER, 1), (LEARNER, 2), ("nobody", 3), (LEARNER, 4)):
        owned = sold | {"metadata": {"userId": learner}}
        yield send(api, "customer.subscription.updated", owned, at)
        yield send(api, "customer.subscription.updated", owned | {"status": "past_due"}, at)
        checkout: dict[str, object] = {"client_reference_id": learner, "customer": "cus_1", "mode": "subscription"}
        # A session that comes later says that it was made earlier. So the first session of the customer changes, and
        # stripe/tie.sql updates its row.
        checkout |= {"id": f"cs_{at}", "created": 9 - at, "subscription": "sub_1"}
        yield send(api, "checkout.session.completed", checkout, at)
    # A subscription gives a course, for longer, and no more. A payment for a course is corrected, and refunded twice.
    course: dict[str, object] = {
        "metadata": {"userId": LEARNER, "courseId": COURSE},
        "id": "sub_2",
        "customer": "cus_2",
    }
    changes: list[dict[str, object]] = [{}, {"current_period_end": 1_900_000_001}, {"status": "canceled"}]
    for at, change in enumerate(changes, 1):
        yield send(api, "customer.subscription.updated", sold | course | change, at)
    paid: dict[str, object] = {
        "client_reference_id": LEARNER,
        "mode": "payment",
        "payment_status": "paid",
        "id": "cs_9",
    }
    for at, courses in enumerate((COURSE, uuid4(0xB)), 1):
        metadata = {"courseId": courses}
        yield send(api, "checkout.session.completed", paid | {"payment_intent": "pi_1", "metadata": metadata}, at)
        yield send(api, "charge.refunded", {"payment_intent": "pi_1", "refunded": True}, at)
    # With NEW_LEARNERS, the service adds this learner.
    answer = api.get("/api/progress/access", headers=bearer(STRANGER))
    yield answer.status_code if answer.json and answer.json.get("free") else "not added"
    for path in reads():
        yield api.get(PREFIX + path, headers=bearer(READER)).status_code
    stripe = {"STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET, "STRIPE_PRICES": "price_1"}
    yield subprocess.run(
        [sys.executable, "-m", "app.start", "--apply-terms"], cwd=ROOT, env=environ | stripe, capture_output=True
    ).returncode


def test_each_right_is_one_that_some_statement_needs(make_api, environ, db, database_url):
    add_module(db, 1, 2)  # a mark of its only lesson completes the module and the course
    add_course(db, 0xA)
    add_course(db, 3, 1)
    settings = {"RATE_LIMIT_WRITES": f"{1 + len(writes())} per minute", "NEW_LEARNERS": "add-free"}
    api = make_api(STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET, **settings)
    answers = list(everything(api, db, environ))
    assert answers == [200, 200, *[200] * len(writes()), 429, "(0, None, 0)", *[200] * 20, *[200] * len(reads()), 0]
    rights = db.execute(RIGHTS, {"role": SERVICE}).fetchall()
    useless = []
    try:
        for right, table in rights:
            db.execute(f"revoke {right} on {table} from {SERVICE}")
            if all(one == other for one, other in zip(everything(api, db, environ), answers, strict=True)):
                useless.append((right, table))
            db.execute(f"grant {right} on {table} to {SERVICE}")
    finally:
        grant(database_url)
    assert rights
    assert useless == []


@pytest.mark.parametrize(
    "statement",
    [
        "select * from users",
        "select users from users",
        "update users set email = '' returning id",
        "copy users to stdout",
        "create view x as select email from users",
        "create index on users (email)",
        "comment on table users is ''",
        "select pg_read_file('postgresql.conf')",
        "update users set email = ''",
        "insert into users (id, email) values (gen_random_uuid(), '')",
        "delete from users",
        *(f"delete from {name}" for name in ("courses", "modules", "lessons", "lesson_prerequisites")),
        "delete from enrollments",
        "update course_enrollments set source = ''",
        "delete from stripe_payments",
        "update events set webhook_id = ''",
        "update events set user_id = gen_random_uuid()",
        "update events set data = '{}'",
        "update lessons set published = true",
        "insert into modules (id, title, position) values (gen_random_uuid(), '', 1)",
        "update subscriptions set user_id = gen_random_uuid()",
        "delete from stripe_subscriptions",
        "insert into enrollments (user_id, expires_at) values (gen_random_uuid(), 'infinity')",
        "update enrollments set expires_at = null",
        "update progress set completed_at = now()",
        "update progress set user_id = gen_random_uuid()",
        "truncate progress",
        "truncate rate_limits",
        "drop table rate_limits",
        "alter table progress add column x integer",
        "create table x (y integer)",
        "create function x() returns integer language sql as 'select 1'",
        "delete from _yoyo_migration",
        "begin; lock table users",
        "set role postgres",
        "copy progress to program 'true'",
        "alter role current_user superuser",
    ],
)
def test_the_role_may_do_nothing_that_no_statement_does(environ, db, statement):
    with (
        closing(psycopg.connect(environ["DATABASE_URL"], autocommit=True)) as service,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        service.execute(statement)


def test_an_owner_who_may_not_alter_roles_gives_the_rights_all_the_same(postgres: Postgresql, database_url: str):
    with closing(psycopg.connect(postgres.url(), autocommit=True)) as superuser:
        superuser.execute("create role plain login; create role bare login")
        superuser.execute("create database plain owner plain")
        url = postgres.url("plain").replace("postgres@", "plain@")
        migrate(url)
        grant(url)  # this role already has its timeouts
        for role, told, missing in (
            (
                "bare",
                "The rights are given. You may not alter roles; have somebody who may run this once:",
                "alter role bare set lock_timeout = '4s'; alter role bare set statement_timeout = '4500ms';"
                " alter role bare set idle_in_transaction_session_timeout = '5s';",
            ),
            (
                "missing",
                "You may not create roles. Have somebody who may run this once, and then run this script again:",
                "create role missing login;",
            ),
        ):
            lines = refused(url, role).splitlines()
            assert lines[:2] == [told, missing]
            assert "permission denied" in lines[2]
            assert lines[-1].endswith(f"STATEMENT:  {missing.partition(' alter')[0]}")
        # docs/operating.md has these statements for a superuser to run.
        statements = block("sql", "create role progress")
        superuser.execute(statements.replace("role progress", "role missing").encode())
        grant(url, "missing")
        for role in (SERVICE, "bare", "missing"):
            with closing(psycopg.connect(url.replace("plain@", f"{role}@"))) as service:
                assert service.execute("select count(*) from progress").fetchone() == (0,)
                assert (service.execute(TIMEOUTS).fetchone() == ("4s", "4500ms", "5s")) == (role != "bare")
        superuser.execute("drop database plain")
        superuser.execute("drop role bare; drop role missing; drop role plain")


def refused(url: str, role: str) -> str:
    """Run the script, which must fail. Return what it prints."""
    command = [str(bindir() / "psql"), "-Xq", "-v", f"role={role}", "-f", "deploy/grants.sql", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    return done.stderr


@pytest.fixture
def site_users(db: psycopg.Connection, database_url: str) -> Iterator[psycopg.Connection]:
    """The table users is the site's own, as far as deploy/grants.sql can tell. It has e-mail addresses."""
    [comment] = db.execute("select obj_description('users'::regclass)").fetchone() or ()
    db.execute("comment on table users is null")
    grant(database_url)
    db.execute(
        "insert into users (id, email)"
        " select gen_random_uuid(), 'ada' || n || '@example.org' from generate_series(1, 9) as n"
    )
    db.execute("analyze users")
    yield db
    db.execute(f"comment on table users is '{comment}'")
    grant(database_url)


def test_in_a_sites_own_users_the_role_sees_nothing_but_the_id(environ, site_users):
    known = "select histogram_bounds::text from pg_stats where tablename = 'users' and attname = 'email'"
    assert "ada1@example.org" in site_users.execute(known).fetchone()[0]
    with closing(psycopg.connect(environ["DATABASE_URL"], autocommit=True)) as service:
        assert service.execute("select count(id) from users").fetchone() == (9,)
        assert service.execute(known).fetchall() == []
        for statement in (
            "select email from users",
            "select name from users",
            "select * from users",
            "select count(email) from users",
            "select id from users where email = 'ada@example.org'",
            "select id from users order by name",
            "update users set id = id returning email",
            "insert into users (id) values (gen_random_uuid())",
            "select email from learner_contacts",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)


def test_row_level_security_is_noticed_on_every_table_that_a_statement_reads(db):
    """PostgreSQL locks these tables while it prepares the statements. The tables below the views are among them."""
    with db.transaction(force_rollback=True):
        for name, statement in statements.STATEMENTS.items():
            if not name.startswith(statements.TASK_FOLDERS) and name != "session":
                assert db.pgconn.prepare(b"", statement.query).status == ExecStatus.COMMAND_OK
        locked = db.execute(
            "select relation::regclass::text from pg_locks inner join pg_class on relation = pg_class.oid"
            " where pid = pg_backend_pid() and relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"
        ).fetchall()
    tables = sorted({table for (table,) in locked})
    assert {"enrollments", "lesson_prerequisites"} < set(tables)
    assert len(tables) > 10
    statement = statements.STATEMENTS["readiness"]
    with db.transaction(force_rollback=True):
        for table in tables:
            db.execute(f"alter table {table} enable row level security")
        db.execute(f"set local role {SERVICE}")
        row = psycopg.RawCursor(db).execute(statement.query, [json.dumps(statements.TABLES)]).fetchone()
    assert row == (False, SERVICE, tables)


def test_every_view_is_read_with_the_rights_of_the_role_that_asks(db):
    views = "select relname, reloptions from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace"
    found = dict(db.execute(views).fetchall())
    others = {"paid_courses", "learner_contacts"}
    assert set(found) == {"accessible_lessons", "learner_access", "published_prerequisites"} | others
    assert all(options == ["security_invoker=true"] for options in found.values()), found


@pytest.mark.parametrize("name", ["accessible_lessons", "progress", "learner_tag_keys", "learner_contacts"])
def test_a_start_without_the_rights_of_this_version_is_refused(environ, db, database_url, name):
    db.execute(f"revoke all on {name} from {SERVICE}")
    try:
        with pytest.raises(readiness.NotReadyError) as error:
            readiness.check(from_environ(environ))
    finally:
        grant(database_url)
    kind = "view" if name in ("accessible_lessons", "learner_contacts") else "table"
    assert str(error.value) == (
        f"DATABASE_URL: permission denied for {kind} {name}; was deploy/grants.sql run after make migrate?"
    )


def assert_refused(api: FlaskClient, environ: dict[str, str], table: str, role: str = SERVICE) -> None:
    told = (
        f"row level security hides rows from the role {role} in: {table};"
        f" run as a superuser: alter role {role} bypassrls; or make {role} the owner of what is listed"
    )
    with pytest.raises(readiness.NotReadyError) as error:
        readiness.check(from_environ(environ))
    assert str(error.value) == f"DATABASE_URL: {told}"
    answer = api.get("/readyz")
    document: Any = answer.json
    assert (answer.status_code, document["code"]) == (503, "unavailable")
    assert document["detail"] == f"{told[0].upper()}{told[1:]}."


@pytest.mark.parametrize("policy", ["", "create policy everybody on {} using (true)"])
@pytest.mark.parametrize("table", ["users", "progress", "lessons", "enrollments", "_yoyo_migration", '"Session"'])
def test_row_level_security_on_a_table_that_is_read_stops_the_service(make_api, environ, db, table, policy):
    db.execute(
        'create table "Session" ("sessionToken" text, "userId" uuid, expires timestamptz);'
        f' grant select ("sessionToken", "userId", expires) on "Session" to {SERVICE}'
    )
    settings = {"AUTH_SESSION_TABLE": '"Session"'}
    api = make_api(**settings)
    try:
        db.execute(f"alter table {table} enable row level security; {policy.format(table)}")
        assert_refused(api, environ | settings, table)
        db.execute(f"alter role {SERVICE} bypassrls")
        readiness.check(from_environ(environ | settings))
        assert api.get("/readyz").status_code == 200
    finally:
        db.execute(f"alter role {SERVICE} nobypassrls; drop policy if exists everybody on {table}")
        db.execute(f'alter table {table} disable row level security; drop table "Session"')
    assert api.get("/readyz").status_code == 200


def test_row_level_security_on_what_the_service_does_not_read_is_none_of_its_business(make_api, environ, db):
    # A table of the site has the name of a CTE, and the role may not read the table.
    db.execute("create table access (id integer); alter table access enable row level security")
    try:
        readiness.check(from_environ(environ))
        assert make_api().get("/readyz").status_code == 200
    finally:
        db.execute("drop table access")


def test_a_write_whose_lock_finds_no_row_is_no_answer(make_api, db, caplog):
    """Row level security may be enabled while the service runs. Then parallel writes would not wait for each other."""
    add_user(db)
    add_module(db, 1, 2)
    api = make_api()
    db.execute("alter table users enable row level security")
    try:
        for method in ("POST", "DELETE"):
            answer = api.open(lesson_path(2), method=method, headers=bearer())
            assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "unavailable", "2")
            assert caplog.records[-1].__dict__["fields"]["error"] == "lock.sql found no row of the learner"
    finally:
        db.execute("alter table users disable row level security")
    assert api.post(lesson_path(2), headers=bearer()).status_code == 200


def test_three_columns_of_the_sites_sessions_are_enough(make_api, db, environ):
    add_user(db)
    add_module(db, 1, 2)
    db.execute(
        'create table sessions ("sessionToken" text, "userId" uuid, expires timestamptz, address text);'
        f' grant select ("sessionToken", "userId", expires) on sessions to {SERVICE}'
    )
    try:
        db.execute("insert into sessions values ('t', %s, now() + '1 hour')", [LEARNER])
        readiness.check(from_environ(environ | {"AUTH_SESSION_TABLE": "sessions"}))
        api = make_api(AUTH_SESSION_TABLE="sessions")
        headers = {"Cookie": "authjs.session-token=t"}
        assert api.get("/api/progress/summary", headers=headers).status_code == 200
        with (
            closing(psycopg.connect(environ["DATABASE_URL"], autocommit=True)) as service,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            service.execute("select address from sessions")
    finally:
        db.execute("drop table sessions")


def test_a_schema_that_the_role_may_not_enter_is_told_by_the_name_of_the_setting(environ, db):
    db.execute("create schema closed; create table closed.sessions (id integer)")
    try:
        with pytest.raises(readiness.NotReadyError, match=r"^AUTH_SESSION_TABLE: permission denied for schema closed$"):
            readiness.check(from_environ(environ | {"AUTH_SESSION_TABLE": "closed.sessions"}))
    finally:
        db.execute("drop schema closed cascade")


TIMEOUTS = """
    select
        current_setting('lock_timeout') as a,
        current_setting('statement_timeout') as b,
        current_setting('idle_in_transaction_session_timeout') as c
"""


def test_the_role_brings_timeouts_for_connections_that_cannot(environ, database_url):
    with closing(psycopg.connect(as_service(database_url), autocommit=True)) as service:
        shown = service.execute(TIMEOUTS).fetchone()
        path = service.execute("show search_path").fetchone()
    assert shown == ("4s", "4500ms", "5s")
    assert path == ('"$user", public',)  # PostgreSQL's default, because the tables are in public


def test_a_connection_of_the_services_brings_its_own(make_api, db):
    api = make_api(DATABASE_TIMEOUT="2")
    with service_of(api.application).pool.connection() as connection:
        shown = connection.execute(TIMEOUTS).fetchone()
    assert shown is not None
    assert list(shown.values()) == ["1600ms", "1800ms", "2s"]
