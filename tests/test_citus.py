"""Citus: the statements of sql/ are of forms that it takes, and deploy/citus.sql knows every table.

Citus itself does not run here. So these tests hold the SQL to the rules that were seen with Citus 13.2.2
(sql/README.md).
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from app.database import statements
from app.database.statements import STATEMENTS
from app.demo.postgres import bindir
from tests import citus
from tests.conftest import ROOT, SERVICE

REFUSED = Path(__file__).parent / "citus_refused"
# These ask every shard, which takes longer with each shard. None of them is part of a learner's call.
ASK_EVERY_SHARD = {
    "admin/catalog_changes": "counts the completions of all learners, once for each load of a catalog",
    "admin/complete": "looks at 200 learners at a time",
    "admin/export_progress": "copies the completions of all learners",
    "admin/import_counts": "looks at the learners of a file",
    "admin/known_learners": "looks at the learners of a file",
    "admin/complete_learners": "lists all learners, 200 at a time",
    "stripe/apply_terms_learners": "compares all subscriptions, at a start of the service, and so fetches all copies",
    "stripe/course_learners": "compares all courses that Stripe gave, at a start of the service",
    "stripe/attach": "asks for the learners that one customer names, which may be several",
    "stripe/attach_payments": "asks for the learners of an event, which may be several",
    "stripe/copy": "copies for the learners of an event, which may be several, and looks for others with the same copy",
    "stripe/release": "looks for whoever has a copy of a subscription",
    "stripe/take_courses": "asks for the learners of an event, which may be several",
}

REPORTS = {name for name in STATEMENTS if name.startswith("reports/")}  # each is about all learners


@pytest.mark.parametrize("name", sorted(set(STATEMENTS) - {"session"}))  # session.sql reads a table of the site
def test_a_statement_is_of_a_form_that_citus_routes(name):
    accepted = {citus.ALL_LEARNERS} if name in ASK_EVERY_SHARD.keys() | REPORTS else set()
    if name == "stripe/apply_terms_learners":
        accepted.add(citus.JOIN)
    if name == "reports/stuck":  # does not run on Citus: sql/README.md
        accepted.add(citus.CORRELATED)
    assert citus.refused(STATEMENTS[name].query.decode()) == accepted


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mark", citus.INSERT_IN_CTE),
        ("stripe_attach", citus.JOIN),
        ("catalog_modules", citus.EXCEPT),
        ("catalog_lessons", citus.EXCEPT),
        ("catalog_changes", citus.CORRELATED),
        ("access", citus.JOIN),
    ],
)
def test_a_statement_that_citus_did_not_take_is_noticed(name, reason):
    assert reason in citus.refused(statements.load(REFUSED / f"{name}.sql").query.decode())


@pytest.mark.parametrize(
    ("statement", "reasons"),
    [
        ("select count(*) from progress;", {citus.ALL_LEARNERS}),
        ("select 1 from users where id = any($1::uuid[]) for update;", {citus.ALL_LEARNERS, citus.LOCK}),
        ("select 1 from users where id = $1::uuid for update;", set()),
        ("insert into enrollments (user_id) values ((select $1::uuid));", {citus.SUBQUERY}),
        ("insert into enrollments (user_id) values ($1) returning (select 1);", {citus.SUBQUERY}),
        (
            "insert into enrollments (user_id) values ($1) on conflict (user_id) do update set expires_at = now();",
            {citus.NOT_IMMUTABLE},
        ),
        (
            "insert into rate_limits (key) values ($1) on conflict (key) do update set expires_at = now();",
            set(),  # a table of the coordinator
        ),
        (
            "update events set next_attempt_at = make_interval(secs => attempts) where user_id = $1;",
            {citus.NOT_IMMUTABLE},
        ),
        ("update events set claimed_at = now() where user_id = $1;", set()),
        ("delete from events where user_id = $1 returning to_char(claimed_at, 'YYYY');", {citus.NOT_IMMUTABLE}),
        (
            "delete from subscriptions using stripe_subscriptions as held where subscriptions.user_id = $1"
            " and held.stripe_subscription_id = subscriptions.stripe_subscription_id;",
            {citus.JOIN},
        ),
        (
            "select 1 from stripe_payments as p where exists ("
            "select 1 from course_enrollments as given where given.source = p.source and given.user_id = $1);",
            {citus.JOIN},
        ),
        (
            "with gone as (delete from progress where user_id = $1) delete from events where user_id = $1;",
            {citus.SEVERAL_KINDS},
        ),
        ("select 1 from enrollments inner join progress on true where enrollments.user_id = $1;", {citus.ALL_LEARNERS}),
    ],
)
def test_each_form_that_citus_does_not_take_is_noticed(statement, reasons):
    assert citus.refused(statement) == reasons


# The functions of Citus that deploy/citus.sql calls. These note their calls, and refuse what Citus refuses: a foreign
# key to a table that is not converted yet, and a unique constraint without the column of the distribution.
STUBS = """
create schema stubs;
create table stubs.calls (number integer generated always as identity, relation text, kind text, options text);
create function stubs.note(relation regclass, kind text, key text, options text) returns void language plpgsql as $$
begin
    if exists (
        select from pg_constraint
        where
            conrelid = relation
            and contype = 'f'
            and confrelid != relation
            and confrelid::regclass::text not in (select calls.relation from stubs.calls)
    ) then
        raise exception 'a foreign key of % to a table that is not converted', relation;
    end if;
    if key is not null and exists (
        select from pg_index
        where
            indrelid = relation
            and indisunique
            and not (select attnum from pg_attribute where attrelid = relation and attname = key) = any(indkey)
    ) then
        raise exception 'a unique index of % without %', relation, key;
    end if;
    insert into stubs.calls (relation, kind, options) values (relation::text, kind, options);
end $$;
create function stubs.create_distributed_table(
    regclass, text, shard_count integer default null, colocate_with text default ''
) returns void language sql as $$ select stubs.note($1, 'distributed', $2, $2 || ' ' || $4) $$;
create function stubs.create_reference_table(regclass) returns void language sql
as $$ select stubs.note($1, 'reference', null, '') $$;
create function stubs.citus_add_local_table_to_metadata(regclass) returns void language sql
as $$ select stubs.note($1, 'known', null, '') $$;
create function stubs.truncate_local_data_after_distributing_table(regclass) returns void language sql as $$ $$;
"""
FOREIGN_KEYS = (
    "select conrelid::regclass::text || ' ' || pg_get_constraintdef(oid) from pg_constraint"
    " where contype = 'f' and connamespace = 'public'::regnamespace"
)


def distribute(url: str, stubs: str = STUBS) -> int:
    """Run deploy/citus.sql with psql, on the stubs. Return psql's status."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(stubs.encode())
    command = [str(bindir() / "psql"), "-Xq", "-c", "set search_path = public, stubs", "-f", "deploy/citus.sql", url]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode


def query(url: str, statement: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {row for (row,) in connection.execute(statement.encode())}


def test_the_script_names_every_table_once_and_brings_the_foreign_keys_back(migrated_database: Callable[[], str]):
    url = migrated_database()
    before = query(url, FOREIGN_KEYS)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("insert into users (id) values (gen_random_uuid())")
        connection.execute(
            "insert into events (user_id, webhook_id, type, data) select id, 'msg', 't', '{}' from users"
        )
    assert distribute(url) == 0
    kinds = citus.kinds()
    with psycopg.connect(url) as connection:
        calls = connection.execute("select relation, kind, options from stubs.calls order by number").fetchall()
    assert len(calls) == len({relation for relation, *_ in calls})
    assert {relation: kind for relation, kind, _ in calls} == {
        name: kind for name, kind in kinds.items() if kind != "coordinator"
    }
    assert set(kinds) == query(
        url,
        "select relname::text from pg_class"
        " where relkind = 'r' and relnamespace = 'public'::regnamespace and relname !~ 'yoyo'",
    )
    # All are distributed by the learner, with users.
    learners = [(relation, options.strip()) for relation, kind, options in calls if kind == "distributed"]
    assert learners[0] == ("users", "id")
    assert {options for _, options in learners[1:]} == {"user_id users"}
    # Only tables of the coordinator lose their foreign keys, those to users.
    after = query(url, FOREIGN_KEYS)
    assert after <= before
    assert {(key.split()[0], key.split("REFERENCES ")[1].split("(")[0]) for key in before - after} == {
        (name, "users")
        for name in (
            "events",
            "stripe_customers",
            "stripe_subscriptions",
            "stripe_checkouts",
            "stripe_payments",
        )
    }


def test_a_script_that_fails_leaves_nothing(migrated_database: Callable[[], str]):
    url = migrated_database()
    constraints = FOREIGN_KEYS.replace("contype = 'f' and ", "")
    before = query(url, constraints)
    assert distribute(url, STUBS.replace("select stubs.note($1, 'known', null, '')", "select 1 / 0")) != 0
    assert query(url, constraints) == before
    assert query(url, "select relation from stubs.calls") == set()


def test_on_citus_the_role_may_name_each_column_that_has_a_default(migrated_database: Callable[[], str]):
    url = migrated_database()
    command = [str(bindir() / "psql"), "-Xq", "-v", f"role={SERVICE}", "-f", "deploy/citus_grants.sql", url]
    subprocess.run(command, cwd=ROOT, check=True)
    inserted = {
        table
        for statement in STATEMENTS.values()
        if not statement.name.startswith("admin/")
        for table in re.findall(r"^(?: *)insert into (\w+)", statement.query.decode(), re.M)
    }
    learners = {name for name in inserted if citus.KINDS[name] in ("distributed", "known")}
    assert len(learners) == 8
    lacking = query(
        url,
        "select attrelid::regclass || '.' || attname from pg_attribute where atthasdef and not attisdropped"
        f" and attrelid::regclass::text = any('{{{','.join(learners)}}}')"
        f" and not has_column_privilege('{SERVICE}', attrelid, attnum, 'insert')",
    )
    assert lacking == set()
