-- The role that the service runs as: it can do what the statements in sql/ do, and nothing else. It cannot read e-mail
-- addresses or names, write the catalog or the free path, nor create, alter or drop anything. What PUBLIC may do in the
-- database it may too: make temporary tables, and in one that was made before PostgreSQL 15, tables in the schema public,
-- unless the owner runs `revoke create on schema public from public`.
--
-- The owner of the tables runs it after each `make migrate`, as often as they like, with a role of any name:
--
--   psql "$DATABASE_URL" -v role=progress -f deploy/grants.sql
--
-- A role that is not there is created, without a password. An owner who may not create roles has another create it once,
-- and set its timeouts, as at the end; what the script fails at it shows, and the rights are given before. Where
-- AUTH_SESSION_TABLE is set, the site grants `select` on three of its columns itself:
--
--   grant select ("sessionToken", "userId", expires) on sessions to progress;

\set ON_ERROR_STOP on
\set ECHO errors

begin;

select format('create role %I login', :'role')
where not exists (select from pg_roles where rolname = :'role')
\gexec

select current_schema() as schema
\gset

grant usage on schema :"schema" to :"role";

-- From nothing each time, so that what an older version needed is taken back.
revoke all on users, modules, lessons, lesson_prerequisites, subscriptions, enrollments, progress, rate_limits,
stripe_customers, stripe_subscriptions, _yoyo_migration from :"role";

grant select on modules, lessons, lesson_prerequisites, subscriptions, enrollments to :"role";

-- lock.sql: `for no key update` asks for the right to update some column. No statement updates an id, and a foreign key
-- holds most of them in place.
grant select (id), update (id) on users to :"role";

grant select, delete on progress to :"role";
grant insert (user_id, lesson_id, completed_at, updated_at), update (updated_at) on progress to :"role";

grant select, insert, update, delete on rate_limits to :"role";

-- Stripe's webhook: its mirror, and the copy of it that decides who has full access.
grant select, insert, update on stripe_customers, stripe_subscriptions to :"role";
grant insert (user_id, stripe_subscription_id, status, current_period_end), delete on subscriptions to :"role";
grant update (stripe_subscription_id, status, current_period_end) on subscriptions to :"role";

-- The check at the start, and /readyz.
grant select on _yoyo_migration to :"role";

commit;

-- For DATABASE_TIMEOUT=5; change them with it. A connection of the service's brings its own, but through a PgBouncer
-- it cannot: there these hold. What is set already is not set again, which not every owner may.
select format('alter role %I set %I = %L', :'role', name, value)
from (
    values
    ('lock_timeout', '4s'),
    ('statement_timeout', '4500ms'),
    ('idle_in_transaction_session_timeout', '5s')
) as wanted (name, value)
where not exists (
    select from pg_db_role_setting
    inner join pg_roles on setrole = pg_roles.oid
    where rolname = :'role' and setdatabase = 0 and format('%s=%s', name, value) = any(setconfig)
)
\gexec
