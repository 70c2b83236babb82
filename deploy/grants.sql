-- The role that the service runs as. The role can do what the statements in sql/ do, and nothing else. It cannot
-- write the catalog, and cannot create, alter or drop anything. For NEW_LEARNERS it can add rows to `enrollments`, and to
-- `users` if that table is the service's own, but not change or delete them. For the export of a learner's data it can
-- read e-mail addresses and names in the service's own `users`; in a site's `users` it can read the id alone. It can do
-- what PUBLIC can do in the database: create temporary tables, and, if the database was created before PostgreSQL 15,
-- tables in the schema public. To prevent the latter, the owner runs `revoke create on schema public from public`.
--
-- The owner of the tables runs this script after each `make migrate`. It may be repeated. The role may have any name:
--
--   psql "$DATABASE_URL" -v role=progress -f deploy/grants.sql
--
-- With `-v reports=on`, the script makes another role, for the reports of sql/reports/ (docs/reports.md). That role reads
-- what the reports read, and writes nothing. It reads no table `users` at all. Do not use one role for both.
--
-- If row level security is enabled on a table that the service reads, the service does not start. A superuser then runs
-- `alter role progress bypassrls`.
--
-- Use a role that only the service logs in as. If the role does not exist, the script creates it, without a password. If
-- the owner may not create or alter roles, the script prints what somebody else has to run once. docs/operating.md,
-- "Install and start", has these statements too. If AUTH_SESSION_TABLE is set, the site itself grants `select` on three
-- columns of its table:
--
--   grant select ("sessionToken", "userId", expires) on sessions to progress;

\set ON_ERROR_STOP on
\set ECHO errors

\if :{?reports}
select :'reports' = 'on' as for_reports
\gset
\else
select false as for_reports
\gset
\endif

select not rolsuper and not rolcreaterole as may_not_change_roles
from pg_roles
where rolname = current_user
\gset

-- \gset does not set a variable to null. So `creation` is set only if the role has to be created. The same holds for
-- `alterations` below.
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

-- The tables are in the first schema of the search_path. A site's own users table may be in a later schema.
select current_schema() as schema
\gset

grant usage on schema :"schema" to :"role";

-- Revoke everything first, so that rights which only an older version needed are taken back.
revoke all on :"schema".courses, :"schema".modules, :"schema".lessons, :"schema".lesson_prerequisites,
:"schema".subscriptions, :"schema".enrollments, :"schema".course_enrollments, :"schema".progress,
:"schema".module_completions, :"schema".course_completions,
:"schema".rate_limits, :"schema".stripe_checkouts, :"schema".stripe_customers, :"schema".stripe_subscriptions,
:"schema".stripe_payments, :"schema".stripe_reversals, :"schema".paid_courses,
:"schema".learner_tag_keys, :"schema".events,
:"schema".learner_access, :"schema".accessible_lessons, :"schema".published_prerequisites,
:"schema".learner_contacts,
:"schema"._yoyo_migration from :"role";

select
    pg_has_role(relowner, 'usage') as may_grant_users,
    coalesce(obj_description(oid, 'pg_class') ~ 'created by progress-tracking', false) as own_users
from pg_class
where oid = 'users'::regclass
\gset

\if :may_grant_users
revoke all on users from :"role";
\endif

\if :for_reports
grant select on :"schema".courses, :"schema".modules, :"schema".lessons, :"schema".lesson_prerequisites,
:"schema".enrollments, :"schema".course_enrollments, :"schema".progress,
:"schema".module_completions, :"schema".course_completions,
:"schema".learner_access, :"schema".accessible_lessons, :"schema".published_prerequisites to :"role";
grant select (user_id, status, current_period_end) on :"schema".subscriptions to :"role";
\else

grant select on :"schema".courses, :"schema".modules, :"schema".lessons, :"schema".lesson_prerequisites,
:"schema".subscriptions, :"schema".enrollments, :"schema".course_enrollments to :"role";

-- The views read these tables with the rights of the role that asks, so the role needs both.
grant select on :"schema".learner_access, :"schema".accessible_lessons, :"schema".published_prerequisites,
:"schema".learner_contacts
to :"role";

-- For lock.sql: `for no key update` needs the right to update a column. No statement updates an id, and foreign keys
-- prevent it for most rows. Only the owner of a site's own users table can grant this right. The service adds learners to
-- its own users table alone (NEW_LEARNERS), and reads e-mail addresses and names there alone (learner_contacts).
\if :may_grant_users
grant select (id), update (id) on users to :"role";
\if :own_users
grant insert (id), select (email, name) on users to :"role";
\endif
\endif

select format('grant usage on schema %I to %I', nspname, :'role')
from pg_class
inner join pg_namespace on relnamespace = pg_namespace.oid
where pg_class.oid = 'users'::regclass and not has_schema_privilege(:'role', pg_namespace.oid, 'usage')
\gexec

grant select, delete on :"schema".progress to :"role";
grant insert (user_id, lesson_id, completed_at, updated_at), update (updated_at) on :"schema".progress to :"role";

-- A completion is never deleted, and only starting over changes it.
grant select, insert (user_id, module_id, completed_at), update (started_over_at)
on :"schema".module_completions to :"role";
grant select, insert (user_id, course_id, completed_at), update (started_over_at)
on :"schema".course_completions to :"role";

-- For NEW_LEARNERS=add-free: a row without an end.
grant insert (user_id) on :"schema".enrollments to :"role";

grant select, insert, update, delete on :"schema".rate_limits to :"role";

-- The key of Learner-Tag, for installations in which no setting holds a secret.
grant select (key) on :"schema".learner_tag_keys to :"role";

-- For Stripe's webhook: the tables with what Stripe says, `subscriptions`, which decides who has full access, and
-- `course_enrollments`, which decides who has a course.
grant select, insert, update on :"schema".stripe_checkouts, :"schema".stripe_customers, :"schema".stripe_subscriptions,
:"schema".stripe_payments, :"schema".stripe_reversals
to :"role";
grant select on :"schema".paid_courses to :"role";
grant insert (user_id, course_id, source, expires_at), update (expires_at), delete
on :"schema".course_enrollments to :"role";
grant insert (user_id, stripe_subscription_id, status, current_period_end, mirrored_period_end), delete
on :"schema".subscriptions to :"role";
grant update (stripe_subscription_id, status, current_period_end, mirrored_period_end)
on :"schema".subscriptions to :"role";

-- For the events of writes, and for `make deliver`, which sends them, records what became of each attempt, and removes
-- what was delivered long ago.
grant select, delete on :"schema".events to :"role";
grant insert (user_id, webhook_id, type, data, next_attempt_at, created_at) on :"schema".events to :"role";
grant update (
    next_attempt_at, claimed_at, attempts, last_attempt_at, last_status, last_error, delivered_at, given_up_at
)
on :"schema".events to :"role";

-- For the check at the start, and for /readyz.
grant select on :"schema"._yoyo_migration to :"role";
\endif

commit;

\if :for_reports
\else
-- Say this before the alterations, because the script may end at them.
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
\endif

-- The timeouts are for DATABASE_TIMEOUT=5. Change them with it. A connection of the service sets its own timeouts, except
-- through a PgBouncer, where those of the role apply. The role for reports gets no timeout. The search_path lets the role
-- find the tables without options in its URL, which a PgBouncer does not accept. It is set in this database only, because
-- the role may serve other databases too. What is set already is not set again, because not every owner may alter the role.
-- A role that was made for the reports before, and is the service's now, may write again; and the other way round.
with wanted as (
    select
        1 as place,
        number,
        case
            when of_reports = :'for_reports'::boolean then format('set %I = %L', name, value)
            else format('reset %I', name)
        end as setting,
        format('%s=%s', name, value) as stored,
        of_reports = :'for_reports'::boolean as is_wanted,
        null as database
    from (
        values
        (1, 'lock_timeout', '4s', false),
        (2, 'statement_timeout', '4500ms', false),
        (3, 'idle_in_transaction_session_timeout', '5s', false),
        (4, 'default_transaction_read_only', 'on', true)
    ) as settings (number, name, value, of_reports)
    union all
    select
        2 as place,
        0 as number,
        'set search_path = ' || search_path as setting,
        'search_path=' || search_path as stored,
        true as is_wanted,
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
where is_wanted != exists (
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
