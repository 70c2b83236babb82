-- The further rights of the service's role on Citus: Citus names each column that has a default in an insert. The owner
-- of the tables runs this script after each run of deploy/grants.sql, which revokes these rights:
--
--   psql "$DATABASE_URL" -v role=progress -f deploy/citus_grants.sql

\set ON_ERROR_STOP on

grant insert (created_at) on subscriptions, enrollments, course_enrollments, progress, module_completions,
course_completions to :"role";

-- The number of an event comes from its sequence.
grant insert (id, attempts, created_at) on events to :"role";
grant usage on sequence events_id_seq to :"role";

select coalesce(obj_description('users'::regclass, 'pg_class') ~ 'created by progress-tracking', false) as own_users
\gset

\if :own_users
grant insert (created_at) on users to :"role";
\endif
