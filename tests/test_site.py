"""The service in a site's database: in a schema of its own, and with the recipes of the pages that fill `users`."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from app.database import readiness
from app.demo.postgres import bindir
from app.settings import from_environ
from tests.conftest import ROOT, SERVICE, grant
from tests.pages import block
from tests.test_cli import run
from tests.test_migrations import (  # noqa: F401 - earlier and database_at are fixtures
    OWN_SCHEMA,
    RELEASED,
    TABLES,
    contents,
    database_at,
    earlier,
    rollback,
    schema,
    tables,
)
from tests.world import SECRET, add_module, bearer, complete, lesson_path, uuid4

ADA, BOB = uuid4(0xADA), uuid4(0xB0B)
ADDRESS = "ada@example.org"


def sql_of(javascript: str) -> str:
    query = re.search(r'\.query\(\s*"(.*?)"', javascript)
    assert query
    return query[1]


class Site:
    """A site's database. The site and the service have different roles as owners, with a connection for each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.site_url = url.replace("postgres@", "site_owner@")
        self.owner_url = url.replace("postgres@", "progress_owner@") + OWN_SCHEMA
        self.site = psycopg.connect(self.site_url, autocommit=True)
        # The statements of the recipes name tables with their schema, so this search_path does not matter for them.
        self.owner = psycopg.connect(self.owner_url, autocommit=True)

    def as_owner(self, statements: str) -> None:
        self.owner.execute(statements)

    def learners(self) -> list[str]:
        return [user_id for (user_id,) in self.owner.execute("select id::text from users order by 1")]


@contextmanager
def connected(url: str) -> Iterator[Site]:
    """Yield a site's database, with the roles that own what is in it."""
    with closing(psycopg.connect(url, autocommit=True)) as superuser:
        for role in ("site_owner", "progress_owner"):
            if not superuser.execute("select from pg_roles where rolname = %s", [role]).rowcount:
                superuser.execute(f"create role {role} login")
        superuser.execute("grant create on schema public to site_owner")
        superuser.execute(f"grant create on database {conninfo_to_dict(url)['dbname']} to progress_owner")
    made = Site(url)
    yield made
    made.site.close()
    made.owner.close()


@pytest.fixture
def site(new_database: Callable[[], str]) -> Iterator[Site]:
    with connected(new_database()) as site:
        yield site


@pytest.fixture(scope="module")
def template(new_database: Callable[[], str]) -> str:
    url = new_database()
    with connected(url) as site:
        assert run(site.owner_url, "migrate")[0] == 0
    return str(conninfo_to_dict(url)["dbname"])


@pytest.fixture
def migrated(new_database: Callable[..., str], template: str) -> Iterator[Site]:
    """Yield a site where the service has a table users of its own. It is a copy: see migrated_database.

    A copy of a database lacks the search_path that the role of the service has there, so this grants its rights again.
    """
    with connected(new_database(template)) as site:
        grant(site.url + OWN_SCHEMA)
        yield site


def migrate(site: Site) -> None:
    code, _, err = run(site.owner_url, "migrate")
    assert (code, err) == (0, "")
    # A superuser runs this, because it sets the search_path of the role. The owner may not alter roles.
    grant(site.url + OWN_SCHEMA)


def service(site: Site) -> dict[str, str]:
    """Return the settings of the service. Its URL has no options: the role itself has the search_path."""
    return {"DATABASE_URL": site.url.replace("postgres@", f"{SERVICE}@"), "AUTH_JWT_SECRET": SECRET}


USERS = "create table users (id uuid primary key, email text unique, plan text)"


def test_the_service_runs_in_a_schema_of_its_own_beside_a_site_with_tables_of_the_same_names(site, make_api):
    site.site.execute(USERS)
    site.site.execute(
        "create table lessons (id serial primary key, body text); insert into lessons (body) values ('the site''s');"
        "create table progress (id serial primary key); create table subscriptions (id text primary key);"
        "create table rate_limits (path text primary key); insert into rate_limits values ('/');"
        'create table sessions ("sessionToken" text, "userId" uuid, expires timestamptz);'
        f'grant select ("sessionToken", "userId", expires) on sessions to {SERVICE};'
        "create table _yoyo_migration (migration_hash text, migration_id text, applied_at_utc timestamp);"
        f"insert into users values ('{ADA}', '{ADDRESS}');"
        f"insert into sessions values ('t', '{ADA}', now() + '1 hour')"
    )
    refused = (1, "".join(f"applied {name}\n" for name in RELEASED[:2]), "Error: permission denied for table users\n")
    assert run(site.owner_url, "migrate") == refused
    site.site.execute("grant references (id), select (id) on users to progress_owner")
    public = contents(site.url, "public")
    assert run(site.owner_url, "migrate")[0] == 0
    grant(site.url + OWN_SCHEMA)
    add_module(site.owner, 1, 2, 3)
    assert run(site.owner_url, "grant-free", USER=ADA)[0] == 0
    site.owner.execute("update lessons set is_free = true")

    environ = service(site) | {"AUTH_SESSION_TABLE": "sessions"}
    readiness.check(from_environ(environ))
    for table in ("sessions", "public.sessions"):
        api = make_api(**environ | {"AUTH_SESSION_TABLE": table})
        assert api.get("/readyz").status_code == 200
        headers = {"Cookie": "authjs.session-token=t"}
        assert api.post(lesson_path(2), headers=headers | {"Sec-Fetch-Site": "same-origin"}).status_code == 200
        answer = api.get("/api/progress/summary", headers=headers).get_json()
        assert answer == {"percent": 50, "completedCount": 1, "totalCount": 2}
    assert contents(site.url, "public") == public

    site.site.execute("delete from users")
    assert site.owner.execute("select from progress").rowcount == 0
    assert site.site.execute("select from rate_limits").rowcount == 1


def test_a_dump_of_the_sites_database_restores_both(site, new_database, make_api, tmp_path):
    site.site.execute(USERS)
    site.site.execute("grant references (id), select (id) on users to progress_owner")
    site.site.execute(f"insert into users values ('{ADA}', '{ADDRESS}')")
    site.site.execute("create table rate_limits (path text primary key); insert into rate_limits values ('/')")
    migrate(site)
    add_module(site.owner, 1, 2)
    complete(site.owner, 2, user_id=ADA)
    site.owner.execute("insert into subscriptions values (%s, null, 'active', now() + '1 day')", [ADA])
    site.owner.execute("insert into rate_limits values ('x', '{}', now())")
    dump, restore = block("sh", "pg_dump "), block("sh", "pg_restore ")
    restored = new_database()
    environ = {"PATH": f"{bindir()}:{os.environ['PATH']}", "DATABASE_URL": site.url + OWN_SCHEMA, "RESTORED": restored}
    for script in (dump, restore):
        subprocess.run(["sh", "-euc", script], env=environ, check=True, cwd=tmp_path)
    grant(restored + OWN_SCHEMA)
    environ = {"DATABASE_URL": restored.replace("postgres@", f"{SERVICE}@")}
    readiness.check(from_environ(environ | {"AUTH_JWT_SECRET": SECRET}))
    answer = make_api(**environ).get("/api/progress/summary", headers=bearer(ADA)).get_json()
    assert answer == {"percent": 100, "completedCount": 1, "totalCount": 1}
    with closing(psycopg.connect(restored)) as connection:
        counts = "select (select count(*) from public.rate_limits), (select count(*) from progress.rate_limits)"
        assert connection.execute(counts).fetchone() == (1, 0)
    assert run(restored + OWN_SCHEMA, "migrate")[1] == "nothing to do: every migration is applied\n"


def test_the_owner_of_the_schema_grants_what_is_theirs_and_says_what_the_owner_of_users_has_to(site):
    site.site.execute(f"{USERS}; grant references (id), select (id) on users to progress_owner")
    assert run(site.owner_url, "migrate")[0] == 0
    psql = [str(bindir() / "psql"), "-Xq", "-v", f"role={SERVICE}", "-f", "deploy/grants.sql"]
    # Only a superuser may set the settings of the role.
    subprocess.run([*psql, site.url + OWN_SCHEMA], cwd=ROOT, check=True)
    site.site.execute(f"revoke all on users from {SERVICE}")
    site.owner.execute(f"revoke all on progress from {SERVICE}")
    done = subprocess.run([*psql, site.owner_url], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    said = re.fullmatch(
        r"the users table is another's, who has to run: (grant .* on public\.users to .*;)\n", done.stderr
    )
    assert said
    lock = "select id from users for no key update"
    with closing(psycopg.connect(service(site)["DATABASE_URL"], autocommit=True)) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(lock)
        site.site.execute(said[1])
        connection.execute(lock)
        connection.execute("select from progress")
    done = subprocess.run([*psql, site.owner_url], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Each recipe must handle a user from before the recipe, a second account with the same address, and a deleted account.


def assert_learners_follow_the_site(site: Site, api: Any, insert: str, delete: str) -> None:
    """Ada has an account already. Bob signs up with her address. Then both accounts are deleted."""
    assert site.learners() == [ADA]
    site.site.execute(insert, {"id": BOB, "email": ADDRESS})
    assert site.learners() == sorted([ADA, BOB])
    assert not site.owner.execute(
        "select from pg_tables where tablename = 'users' and schemaname = 'progress'"
    ).rowcount or (site.owner.execute("select count(email), count(name) from progress.users").fetchone() == (0, 0))
    add_module(site.owner, 1, 2)
    for user_id in (ADA, BOB):
        site.owner.execute("insert into subscriptions values (%s, null, 'active', now() + '1 day')", [user_id])
        assert api.post(lesson_path(2), headers=bearer(user_id)).status_code == 200
    site.site.execute(delete, {"id": BOB})
    assert site.learners() == [ADA]
    assert site.owner.execute("select user_id::text from progress").fetchall() == [(ADA,)]
    assert api.get("/api/progress/summary", headers=bearer(BOB)).status_code == 403


@pytest.mark.parametrize(
    "users",
    [
        # The table of Auth.js' pg adapter, but with UUIDs in place of SERIAL.
        'create table users (id uuid primary key default gen_random_uuid(), email text, "emailVerified" timestamptz)',
        "create table users (id uuid primary key, email text, deleted_at timestamptz)",
    ],
)
def test_a_sites_own_users_are_the_learners(site, make_api, users):
    site.site.execute(f"{users}; grant references (id), select (id) on users to progress_owner")
    site.site.execute("insert into users (id, email) values (%s, %s)", [ADA, ADDRESS])
    migrate(site)
    assert tables(site.url, "progress") == [name for name in TABLES if name != "users"]
    assert_learners_follow_the_site(
        site,
        make_api(**service(site)),
        "insert into users (id, email) values (%(id)s, %(email)s)",
        "delete from users where id = %(id)s",
    )


TRIGGER = block("sql", "create trigger copy_user")
# The table of Auth.js' Prisma adapter. Below, it has the three usual types of ids.
PRISMA = 'create table "User" (id {} primary key, email text, name text)'
INSERT = 'insert into "User" (id, email) values (%(id)s, %(email)s)'
DELETE = 'delete from "User" where id = %(id)s'


def grant_for_the_trigger(site: Site, table: str = '"User"') -> None:
    site.site.execute(f"grant select, trigger on {table} to progress_owner")


@pytest.mark.parametrize("kind", ["uuid", "text"])
def test_a_trigger_on_the_sites_table_fills_users(migrated, make_api, kind):
    migrated.site.execute(PRISMA.format(kind))
    migrated.site.execute(INSERT, {"id": ADA, "email": ADDRESS})
    grant_for_the_trigger(migrated)
    migrated.as_owner(TRIGGER)
    assert_learners_follow_the_site(migrated, make_api(**service(migrated)), INSERT, DELETE)


def test_the_trigger_is_also_for_a_users_table_that_the_service_cannot_use(site, make_api):
    site.site.execute("create table users (id text primary key, email text)")
    site.site.execute("insert into users values (%s, %s)", [ADA, ADDRESS])
    site.owner_url = site.owner_url.removesuffix(",public")
    assert run(site.owner_url, "migrate")[0] == 0
    grant(site.url + OWN_SCHEMA.removesuffix(",public"))
    grant_for_the_trigger(site, "users")
    site.as_owner(TRIGGER.replace('public."User"', "public.users"))
    assert_learners_follow_the_site(
        site,
        make_api(**service(site)),
        "insert into users (id, email) values (%(id)s, %(email)s)",
        "delete from users where id = %(id)s",
    )


def test_the_trigger_never_makes_a_sign_up_fail(migrated):
    migrated.site.execute(PRISMA.format("text"))
    grant_for_the_trigger(migrated)
    migrated.as_owner(TRIGGER)
    warned: list[str | None] = []
    migrated.site.add_notice_handler(lambda notice: warned.append(notice.message_primary))
    for user_id in ("clx0kq3dh0000", "1", ""):
        migrated.site.execute(INSERT, {"id": user_id, "email": ADDRESS})
        migrated.site.execute(DELETE, {"id": user_id})
    migrated.site.execute(INSERT, {"id": ADA, "email": ADDRESS})
    assert migrated.learners() == [ADA]
    assert len(warned) == 6
    while applied_of(migrated):
        assert rollback(migrated.owner_url)[0] == 0
    migrated.site.execute(INSERT, {"id": BOB, "email": ADDRESS})
    migrated.site.execute(DELETE, {"id": BOB})
    assert len(warned) == 8


def applied_of(site: Site) -> list[Any]:
    return site.owner.execute("select from _yoyo_migration").fetchall()


def test_the_trigger_of_a_site_whose_ids_are_no_uuids_is_refused_whole(migrated):
    migrated.site.execute(PRISMA.format("text"))
    migrated.site.execute(INSERT, {"id": "clx0kq3dh0000", "email": ADDRESS})
    grant_for_the_trigger(migrated)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation), migrated.owner.transaction():
        migrated.as_owner(re.sub(r"^(begin|commit);$", "", TRIGGER, flags=re.M))
    assert migrated.site.execute("select from pg_trigger where tgname = 'copy_user'").rowcount == 0


@pytest.mark.parametrize(("kind", "ids"), [("text", ["clx0kq3dh0000", "clx0kq3dh0001"]), ("integer", ["1", "2"])])
def test_a_site_whose_ids_are_no_uuids_gives_each_user_one_beside(migrated, make_api, kind, ids):
    migrated.site.execute(PRISMA.format(kind))
    migrated.site.execute(f'create table "Session" ("sessionToken" text, "userId" {kind}, expires timestamptz)')
    for user_id in ids[:1]:
        migrated.site.execute(INSERT, {"id": user_id, "email": ADDRESS})
    migrated.site.execute(block("sql", "add column learner_id"))
    grant_for_the_trigger(migrated)
    migrated.site.execute('grant select on "Session" to progress_owner')
    migrated.as_owner(
        re.sub(r"\b(new|old)\.id\b", r"\1.learner_id", TRIGGER).replace("select id::uuid", "select learner_id")
    )
    migrated.as_owner(block("sql", "create view progress.site_sessions"))
    migrated.as_owner(f"grant select on progress.site_sessions to {SERVICE}")
    migrated.site.execute(INSERT, {"id": ids[1], "email": ADDRESS})
    migrated.site.execute("insert into \"Session\" values ('t', %s, now() + '1 hour')", [ids[1]])
    known = migrated.site.execute('select learner_id::text from "User" order by 1').fetchall()
    assert [(user_id,) for user_id in migrated.learners()] == known
    assert len(known) == 2
    api = make_api(**service(migrated), AUTH_SESSION_TABLE="progress.site_sessions")
    headers = {"Cookie": "authjs.session-token=t"}
    assert api.get("/api/progress/summary", headers=headers).get_json()["code"] == "not_enrolled"
    migrated.owner.execute("insert into subscriptions select id, null, 'active', now() + '1 day' from progress.users")
    assert api.get("/api/progress/summary", headers=headers).status_code == 200
    migrated.site.execute(DELETE, {"id": ids[1]})
    assert len(migrated.learners()) == 1


PURCHASES = "create table purchases (id serial primary key, user_id uuid, course_id uuid, refunded_at timestamptz)"
COURSE, OTHER_COURSE = uuid4(0xC0), uuid4(0xC1)


@pytest.fixture
def shop(migrated: Site) -> Site:
    """A site that sells two courses. Ada bought the first before the site had this service; Bob has it as a gift."""
    migrated.site.execute(f"{PURCHASES}; grant select, trigger on purchases to progress_owner")
    migrated.site.execute("insert into purchases (user_id, course_id) values (%s, %s)", [ADA, COURSE])
    for user_id in (ADA, BOB):
        assert run(migrated.owner_url, "add-user", USER=user_id)[0] == 0
    for number, course in enumerate((COURSE, OTHER_COURSE)):
        migrated.owner.execute("insert into courses (id, title, position) values (%s, '', %s)", [course, number])
    migrated.owner.execute("insert into course_enrollments (user_id, course_id) values (%s, %s)", [BOB, COURSE])
    return migrated


def given(site: Site) -> list[tuple[str, str, str]]:
    return site.owner.execute(
        "select user_id::text, course_id::text, source from course_enrollments order by source, user_id"
    ).fetchall()


GIFT = (BOB, COURSE, "")
BOUGHT_BEFORE = block("sql", "where purchases.refunded_at is null")


def test_a_trigger_on_the_sites_purchases_gives_courses_and_ends_them(shop):
    shop.as_owner(block("sql", "create trigger copy_purchase"))
    warned: list[str | None] = []
    shop.site.add_notice_handler(lambda notice: warned.append(notice.message_primary))
    for _ in range(2):
        shop.as_owner(BOUGHT_BEFORE)
        assert given(shop) == [GIFT, (ADA, COURSE, "purchase 1")]
    buy = "insert into purchases (user_id, course_id) values (%s, %s)"
    shop.site.execute(buy, [BOB, COURSE])
    shop.site.execute(buy, [ADA, COURSE])
    assert given(shop)[1:] == [(ADA, COURSE, "purchase 1"), (BOB, COURSE, "purchase 2"), (ADA, COURSE, "purchase 3")]
    # A refund ends its own purchase alone; so does a deletion. A purchase may be changed to another course.
    shop.site.execute("update purchases set refunded_at = now() where id in (1, 2)")
    shop.site.execute("update purchases set course_id = %s where id = 3", [OTHER_COURSE])
    assert given(shop) == [GIFT, (ADA, OTHER_COURSE, "purchase 3")]
    shop.site.execute("delete from purchases where id = 3")
    assert given(shop) == [GIFT]
    # Of a course or a learner that the service does not know, the sale goes on.
    for user_id, course in ((ADA, uuid4(0xC2)), (uuid4(0xEE), COURSE)):
        shop.site.execute(buy, [user_id, course])
    assert len(warned) == 2
    shop.owner.execute("insert into courses (id, title, position) values (%s, '', 2)", [uuid4(0xC2)])
    shop.as_owner(BOUGHT_BEFORE)
    assert given(shop) == [GIFT, (ADA, uuid4(0xC2), "purchase 4")]


def test_a_sites_own_payment_gives_a_course_and_its_refund_ends_it(shop):
    bought, refunded = (
        re.sub(r"\$([12])", r"%s", query).replace("$3", "%s")
        for query in (sql_of(block("js", "purchase.courseId")), sql_of(block("js", "after a refund")))
    )
    for _ in range(2):
        shop.owner.execute(bought, [BOB, COURSE, "7"])
    assert given(shop) == [GIFT, (BOB, COURSE, "purchase 7")]
    for _ in range(2):
        shop.owner.execute(refunded, [BOB, "7"])
    assert given(shop) == [GIFT]


def test_a_site_with_another_database_copies_its_users_and_adds_and_deletes_one(migrated, new_database, make_api):
    elsewhere = new_database()
    insert, delete = (sql_of(block("js", f"{verb} progress.users")) for verb in ("insert into", "delete from"))
    with closing(psycopg.connect(elsewhere, autocommit=True)) as other:
        other.execute("create table users (id uuid primary key, email text)")
        other.execute("insert into users values (%s, %s), (%s, %s)", [ADA, ADDRESS, BOB, ADDRESS])
    environ = {"PATH": f"{bindir()}:{os.environ['PATH']}", "DATABASE_URL": migrated.owner_url, "SITE_URL": elsewhere}
    for _ in range(2):
        subprocess.run(["sh", "-euc", block("sh", "$SITE_URL", "select id from users")], env=environ, check=True)
        assert migrated.learners() == sorted([ADA, BOB])
    insert, delete = (query.replace("$1", "%(id)s") for query in (insert, delete))
    migrated.owner.execute(delete, {"id": BOB})
    for query in (insert, insert, delete):
        migrated.owner.execute(query, {"id": BOB})
    migrated.site.close()
    migrated.site = psycopg.connect(migrated.owner_url, autocommit=True)  # in this recipe, the site writes here itself
    assert_learners_follow_the_site(migrated, make_api(**service(migrated)), insert, delete)


MOVE = block("sql", "set schema progress")


def test_an_installation_moves_into_a_schema_of_its_own(earlier):  # noqa: F811
    assert run(earlier, "migrate")[0] == 0
    with closing(psycopg.connect(earlier, autocommit=True)) as connection:
        add_module(connection, 1, 2)
        whole = schema(earlier, "--exclude-table=*.*yoyo*").replace("public.", "progress.")
        connection.execute(MOVE)
        assert run(earlier + OWN_SCHEMA, "migrate")[0] == 0
        assert run(earlier + OWN_SCHEMA, "migrate")[1] == "nothing to do: every migration is applied\n"
        assert connection.execute("select count(*) from progress.lessons").fetchone() == (1,)
    moved = schema(earlier, "--exclude-table=*.*yoyo*")
    assert re.findall(r"^CREATE (?!SCHEMA).*", moved, re.M) == re.findall(r"^CREATE (?!SCHEMA).*", whole, re.M)
    grant(earlier + OWN_SCHEMA)


def test_an_installation_that_took_a_table_of_the_sites_for_its_own_moves_without_it(earlier):  # noqa: F811
    with closing(psycopg.connect(earlier, autocommit=True)) as connection:
        connection.execute(
            "drop table enrollments; create table enrollments (id uuid primary key, user_id uuid, course_id uuid);"
            "insert into enrollments values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid())"
        )
        add_module(connection, 1, 2)
        code, _, err = run(earlier, "migrate")
        assert (code, "enrollments" in err) == (1, True)
        for table in set(tables(earlier)) - {"users", "enrollments"}:
            connection.execute(f"comment on table {table} is 'created by progress-tracking'")
        connection.execute(MOVE)
        assert run(earlier + OWN_SCHEMA, "migrate")[0] == 0
        assert tables(earlier) == ["enrollments"]
        assert tables(earlier, "progress") == TABLES
        counts = "select (select count(*) from progress.lessons), (select count(*) from public.enrollments)"
        assert connection.execute(counts).fetchone() == (1, 1)
