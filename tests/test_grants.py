"""`python -m app.cli grants`: it does what psql does with deploy/grants.sql, and says the same."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql

from app.demo.postgres import bindir
from app.tasks import grants
from tests.conftest import ROOT
from tests.test_cli import run

OWN_SCHEMA = "&options=-csearch_path%3Dprogress,public"
ROLES = ("by_psql", "by_cli", "odd_owner", 'it\'s "odd"; --', ":role")

# A query for every right and every setting of a role in this database.
ALL = """
    select 'table', relnamespace::regnamespace::text || '.' || relname, privilege_type, is_grantable
    from (select relname, relnamespace, (aclexplode(relacl)).* from pg_class) as on_tables
    where grantee = %(role)s
    union all
    select 'column', attrelid::regclass::text || '.' || attname, privilege_type, is_grantable
    from (select attrelid, attname, (aclexplode(attacl)).* from pg_attribute) as on_columns
    where grantee = %(role)s
    union all
    select 'schema', nspname, privilege_type, is_grantable
    from (select nspname, (aclexplode(nspacl)).* from pg_namespace) as on_schemas
    where grantee = %(role)s
    union all
    select 'setting', unnest(setconfig), setdatabase::text, null
    from pg_db_role_setting
    where setrole = %(role)s
    union all
    select 'role', concat(rolcanlogin, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolbypassrls), null, null
    from pg_roles
    where oid = %(role)s
    order by 1, 2, 3
"""


@pytest.fixture
def superuser(new_database) -> Iterator[psycopg.Connection]:
    """Yield a connection to a new database. After the test, drop the roles that the test has created."""
    with closing(psycopg.connect(new_database(), autocommit=True)) as connection:
        yield connection
        for role in ROLES:
            if connection.execute("select from pg_roles where rolname = %s", [role]).rowcount:
                name = sql.Identifier(role)
                connection.execute(sql.SQL("reassign owned by {} to postgres; drop owned by {}").format(name, name))
                connection.execute(sql.SQL("drop role {}").format(name))


def url_of(connection: psycopg.Connection, user: str = "postgres") -> str:
    info = connection.info
    return f"postgresql://{user}@/{info.dbname}?host={info.host}&port={info.port}"


def psql(url: str, role: str, *options: str) -> tuple[int, str]:
    command = [str(bindir() / "psql"), "-Xq", "-v", f"role={role}", *options, "-f", "deploy/grants.sql", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
    return done.returncode, done.stderr


def granted(role: str) -> tuple[int, str, str]:
    return 0, f"granted: {role} has the rights and settings of deploy/grants.sql\n", ""


def all_of(connection: psycopg.Connection, role: str) -> list[Any]:
    oid = connection.execute("select oid from pg_roles where rolname = %s", [role]).fetchone()
    assert oid
    return connection.execute(ALL, {"role": oid[0]}).fetchall()


@pytest.mark.parametrize("schema", ["", OWN_SCHEMA], ids=["public", "own"])
def test_the_command_gives_the_rights_and_settings_that_psql_gives(superuser, schema):
    url = url_of(superuser) + schema
    assert run(url, "migrate")[0] == 0
    assert psql(url, "by_psql") == (0, "")
    assert run(url, "grants", "--role", "by_cli") == granted("by_cli")
    rights = all_of(superuser, "by_psql")
    assert {kind for kind, *_ in rights} == {"table", "column", "schema", "setting", "role"}
    assert any("search_path" in name for kind, name, *_ in rights if kind == "setting") == bool(schema)
    assert all_of(superuser, "by_cli") == rights
    # A second run changes nothing, and takes back a right that only an older version needed.
    tables = "progress.progress" if schema else "progress"
    for role in ("by_psql", "by_cli"):
        superuser.execute(f"grant all on {tables} to {role}; alter role {role} set lock_timeout = '9s'")
    assert run(url, "grants", ROLE="by_cli") == granted("by_cli")
    assert run(url, "grants", ROLE="by_psql") == granted("by_psql")
    assert all_of(superuser, "by_psql") == all_of(superuser, "by_cli") == rights


def test_a_role_of_the_other_kind_keeps_no_setting_of_it(superuser):
    url = url_of(superuser)
    assert run(url, "migrate")[0] == 0
    assert run(url, "grants", "--role", "by_psql") == granted("by_psql")
    assert run(url, "grants", "--role", "by_cli", "--reports")[0] == 0
    service, reports = all_of(superuser, "by_psql"), all_of(superuser, "by_cli")
    assert run(url, "grants", "--role", "by_cli") == granted("by_cli")
    assert psql(url, "by_psql", "-v", "reports=on") == (0, "")
    assert all_of(superuser, "by_cli") == service
    assert all_of(superuser, "by_psql") == reports


@pytest.mark.parametrize("role", ROLES[3:])
def test_a_name_is_quoted_as_psql_quotes_it(superuser, role):
    url = url_of(superuser)
    assert run(url, "migrate")[0] == 0
    assert run(url, "grants", "--role", role) == granted(role)
    rights = all_of(superuser, role)
    assert psql(url, role) == (0, "")
    assert all_of(superuser, role) == rights
    assert len(rights) > 10


def test_an_owner_who_may_not_change_roles_is_told_what_psql_tells(superuser):
    superuser.execute("create role odd_owner login; grant create on schema public to odd_owner")
    url = url_of(superuser, "odd_owner")
    assert run(url, "migrate")[0] == 0
    for statement in ("create role by_cli login;", "alter role by_cli set lock_timeout = '4s';"):
        code, err = psql(url, "by_cli")
        told = re.sub(r"^psql:\S+ ", "", err.partition("ERROR: ")[0], flags=re.M).splitlines()
        refused, out, said = run(url, "grants", "--role", "by_cli")
        assert (code, refused, out) == (3, 1, "")
        *lines, last = said.splitlines()
        assert lines == told
        assert last.startswith("Error: permission denied")
        assert told[-1].startswith(statement)
        superuser.execute("create role by_cli login" if "create" in statement else "")
    # The schema belongs to another role, for which PostgreSQL only warns.
    assert told[0] == 'WARNING:  no privileges were granted for "public"'
    # The script gives the rights before it sets the settings. So it has given them when it stops.
    assert {kind for kind, *_ in all_of(superuser, "by_cli")} == {"table", "column", "role"}
    superuser.execute(told[-1].encode())
    assert run(url, "grants", "--role", "by_cli")[:2] == granted("by_cli")[:2]


def test_another_owner_of_users_is_told_what_psql_tells(superuser):
    superuser.execute(
        "create role odd_owner login; create table users (id uuid primary key);"
        f" grant create on database {superuser.info.dbname} to odd_owner;"
        " grant references (id), select (id) on users to odd_owner; create role by_cli login"
    )
    url = url_of(superuser, "odd_owner") + OWN_SCHEMA
    assert run(url, "migrate")[0] == 0
    _, told = psql(url, "by_cli")
    said = run(url, "grants", "--role", "by_cli")[2]
    first = said.splitlines()[0]
    assert first in told
    assert first.startswith("the users table is another's, who has to run: grant ")


def test_what_is_missing_is_one_line(superuser):
    url = url_of(superuser)
    assert run(url, "grants") == (
        1,
        "",
        "Error: ROLE is not given; say which role the service runs as: --role=progress\n",
    )
    lacking = "Error: the database lacks tables; apply the migrations with: make migrate\n"
    assert run(url, "grants", "--role", "by_cli") == (1, "", lacking)
    # A run that fails leaves neither a right nor the role.
    assert not superuser.execute("select from pg_roles where rolname = 'by_cli'").rowcount


@pytest.mark.parametrize("line", [r"\ir other.sql", r"\elif :x", r"\echo x"])
def test_what_the_command_does_not_know_of_psql_stops_it(superuser, tmp_path, monkeypatch, line):
    script = tmp_path / "grants.sql"
    script.write_text(f"\\if :x\n\\echo left out\n\\endif\n{line}\n")
    monkeypatch.setattr(grants, "SCRIPT", script)
    with pytest.raises(ValueError, match="is not understood here"):
        list(grants.grant(superuser, "by_cli"))
