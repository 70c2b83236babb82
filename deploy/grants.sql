-- The role that the service runs as: it can do what the statements in sql/ do, and nothing else. It cannot read e-mail
-- addresses or names, write the catalog or the free path, nor create, alter or drop anything. What PUBLIC may do in the
-- database it may too: make temporary tables, and in one that was made before PostgreSQL 15, tables in the schema public,
-- unless the owner runs `revoke create on schema public from public`.
--
-- The owner of the tables runs it after each `make migrate`, as often as they like, with a role of any name:
--
--   psql "$DATABASE_URL" -v role=progress -f deploy/grants.sql
--
-- Where row level security is enabled on a table that the service reads, it does not start. A superuser then runs
-- `alter role progress bypassrls`.
--
-- Use a role that nobody but the service logs in as. One that is not there is created, without a password. An owner who
-- may not create or alter roles is told what somebody else has to run once; the README has it too. Where
-- AUTH_SESSION_TABLE is set, the site grants `select` on three of its columns itself:
--
--   grant select ("sessionToken", "userId", expires) on sessions to progress;

\set ON_ERROR_STOP on
\set ECHO errors

select not rolsuper and not rolcreaterole as may_not_change_roles
from pg_roles
where rolname = current_user
\gset

-- \gset makes no variable of null: `creation` is set only where the role has to be created; `alterations` below likewise.
select
    case
        when not exists (select from pg_roles where rolname = :'role') then format('create role %I login;', :'role')
    end as creation
\gset

begin;

\if :{?creation}
\if :may_not_change_roles
\warn 'You may not create roles. Have somebody who may run this once, and then run this script again:'
\warn :creation
\endif
:creation
\endif

-- The tables are in the first schema of the search_path; a site's own users table may be in a later one.
select current_schema() as schema
\gset

grant usage on schema :"schema" to :"role";

-- From nothing each time, so that what an older version needed is taken back.
revoke all on :"schema".modules, :"schema".lessons, :"schema".lesson_prerequisites, :"schema".subscriptions,
:"schema".enrollments, :"schema".progress, :"schema".rate_limits, :"schema".stripe_checkouts,
:"schema".stripe_customers, :"schema".stripe_subscriptions, :"schema".learner_tag_keys,
:"schema".learner_access, :"schema".accessible_lessons, :"schema".published_prerequisites,
:"schema"._yoyo_migration from :"role";

grant select on :"schema".modules, :"schema".lessons, :"schema".lesson_prerequisites, :"schema".subscriptions,
:"schema".enrollments to :"role";

-- The views read these tables with the rights of the role that asks, so the role needs both.
grant select on :"schema".learner_access, :"schema".accessible_lessons, :"schema".published_prerequisites to :"role";

-- lock.sql: `for no key update` asks for the right to update some column. No statement updates an id, and a foreign key
-- holds most of them in place. Only the owner of a site's own users table can grant it.
select pg_has_role(relowner, 'usage') as may_grant_users
from pg_class
where oid = 'users'::regclass
\gset

\if :may_grant_users
revoke all on users from :"role";
grant select (id), update (id) on users to :"role";
\endif

select format('grant usage on schema %I to %I', nspname, :'role')
from pg_class
inner join pg_namespace on relnamespace = pg_namespace.oid
where pg_class.oid = 'users'::regclass and not has_schema_privilege(:'role', pg_namespace.oid, 'usage')
\gexec

grant select, delete on :"schema".progress to :"role";
grant insert (user_id, lesson_id, completed_at, updated_at), update (updated_at) on :"schema".progress to :"role";

grant select, insert, update, delete on :"schema".rate_limits to :"role";

-- Where no setting holds a secret, the key of the learners' tags.
grant select (key) on :"schema".learner_tag_keys to :"role";

-- Stripe's webhook: its mirror, and the copy of it that decides who has full access.
grant select, insert, update on :"schema".stripe_checkouts, :"schema".stripe_customers, :"schema".stripe_subscriptions
to :"role";
grant insert (user_id, stripe_subscription_id, status, current_period_end, mirrored_period_end), delete
on :"schema".subscriptions to :"role";
grant update (stripe_subscription_id, status, current_period_end, mirrored_period_end)
on :"schema".subscriptions to :"role";

-- The check at the start, and /readyz.
grant select on :"schema"._yoyo_migration to :"role";

commit;

-- Told before the alterations, at which the script may end.
select has_column_privilege(:'role', 'users', 'id', 'select') and has_column_privilege(:'role', 'users', 'id', 'update')
as users_are_granted
\gset

\if :users_are_granted
\else
select format(
    'the users table is another''s, who has to run: grant select (id), update (id) on %I.users to %I;', nspname, :'role'
) as message
from pg_class
inner join pg_namespace on relnamespace = pg_namespace.oid
where pg_class.oid = 'users'::regclass
\gset
\warn :message
\endif

-- The timeouts are for DATABASE_TIMEOUT=5; change them with it. A connection of the service's brings its own, but through
-- a PgBouncer it cannot: there these hold. The search_path lets the role find the tables without options in its URL, which
-- a PgBouncer does not take; it is set in this database alone, since the role may serve others too. What is set already is
-- not set again, which not every owner may.
with wanted as (
    select
        1 as place,
        number,
        format('set %I = %L', name, value) as setting,
        format('%s=%s', name, value) as stored,
        null as database
    from (
        values
        (1, 'lock_timeout', '4s'),
        (2, 'statement_timeout', '4500ms'),
        (3, 'idle_in_transaction_session_timeout', '5s')
    ) as timeouts (number, name, value)
    union all
    select
        2 as place,
        0 as number,
        'set search_path = ' || search_path as setting,
        'search_path=' || search_path as stored,
        current_database() as database
    from (
        select string_agg(quote_ident(name), ', ' order by number) as search_path
        from unnest(current_schemas(false)) with ordinality as schemas (name, number)
    ) as own
    where search_path != 'public'
)

select
    string_agg(
        format('alter role %I%s %s;', :'role', ' in database ' || quote_ident(database), setting),
        ' '
        order by place, number
    ) as alterations
from wanted
where not exists (
    select from pg_db_role_setting
    inner join pg_roles on setrole = pg_roles.oid
    left join pg_database on setdatabase = pg_database.oid
    where rolname = :'role' and datname is not distinct from wanted.database and stored = any(setconfig)
)
\gset

\if :{?alterations}
\if :may_not_change_roles
\warn 'The rights are given. You may not alter roles; have somebody who may run this once:'
\warn :alterations
\endif
:alterations
\endif
