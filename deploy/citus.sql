-- Turns the migrated schema, with or without rows, into one that Citus spreads over several machines. Tried with Citus
-- 13.2.2 on PostgreSQL 15. sql/README.md, "Partitioning and Citus", says when that is worth it, and what it costs.
--
-- The owner of the tables runs this script once, on the coordinator, after `make migrate`. It needs a maintenance
-- window: it locks each table until it commits, and the service answers 503 meanwhile. All is done in one transaction.
--
--   psql "$DATABASE_URL" -f deploy/citus.sql
--
-- Before it, a superuser runs, in this database:
--
--   create extension citus;                                    -- on the coordinator and on every worker
--   select citus_set_coordinator_host('<coordinator>', 5432);  -- on the coordinator: it has tables of its own
--   select citus_add_node('<worker>', 5432);                   -- on the coordinator, for each worker
--
-- After it, the owner runs deploy/grants.sql and then deploy/citus_grants.sql, now and after each later `make migrate`.
--
-- The script names every table of the schema, each with its kind:
--
--   distributed by the learner, and colocated: a call reads and writes the rows of one learner on one machine
--     users, subscriptions, enrollments, course_enrollments, progress, module_completions, course_completions
--   reference, a copy on every machine: each call reads the catalog
--     courses, modules, lessons, lesson_prerequisites
--   on the coordinator, and known to Citus: the deliverer asks for the events of all learners, and locks them. Because
--   Citus knows the table, it commits a mark on a worker and its event on the coordinator in two phases, both or neither
--     events
--   on the coordinator, and plain
--     rate_limits, because its upsert has volatile functions, which Citus refuses
--     stripe_customers, stripe_subscriptions, stripe_checkouts, stripe_payments, stripe_reversals, because each is found
--     by several keys, of which the learner is only one
--     learner_tag_keys, which has one row
--
-- So the service and the tasks connect to the coordinator alone.

\set ON_ERROR_STOP on

begin;

-- One connection for each node. Otherwise the constraints below fail: "cannot modify table because there was a parallel
-- operation on a distributed table in the transaction".
set local citus.multi_shard_modify_mode to 'sequential';

-- A unique constraint of a distributed table must include the learner. stripe/copy.sql and stripe/release.sql hold the
-- rule that a subscription is one learner's. No statement names this constraint.
alter table subscriptions drop constraint if exists subscriptions_stripe_subscription_id_key;

-- A table of the coordinator cannot refer to a distributed one. So deleting a learner does not delete these rows.
alter table stripe_customers drop constraint if exists stripe_customers_user_id_fkey;
alter table stripe_subscriptions drop constraint if exists stripe_subscriptions_user_id_fkey;
alter table stripe_checkouts drop constraint if exists stripe_checkouts_user_id_fkey;
alter table stripe_payments drop constraint if exists stripe_payments_user_id_fkey;
alter table events drop constraint if exists events_user_id_fkey;

-- A distributed table can refer to a reference table, and the catalog is none yet. These keys come back below.
alter table course_enrollments drop constraint if exists course_enrollments_course_id_fkey;
alter table progress drop constraint if exists progress_lesson_id_fkey;
alter table module_completions drop constraint if exists module_completions_module_id_fkey;
alter table course_completions drop constraint if exists course_completions_course_id_fkey;

-- The learners. A cluster can grow to as many workers as there are shards.
select create_distributed_table('users', 'id', shard_count => 128);
select create_distributed_table('subscriptions', 'user_id', colocate_with => 'users');
select create_distributed_table('enrollments', 'user_id', colocate_with => 'users');
select create_distributed_table('course_enrollments', 'user_id', colocate_with => 'users');
select create_distributed_table('progress', 'user_id', colocate_with => 'users');
select create_distributed_table('module_completions', 'user_id', colocate_with => 'users');
select create_distributed_table('course_completions', 'user_id', colocate_with => 'users');

-- The catalog, each table after those that it refers to.
select create_reference_table('courses');
select create_reference_table('modules');
select create_reference_table('lessons');
select create_reference_table('lesson_prerequisites');

select citus_add_local_table_to_metadata('events');

-- The sequence of the event numbers begins at 1 again. It must go on: the events of a learner are sent in this order.
select setval(pg_get_serial_sequence('events', 'id'), max(id)) from events;

alter table course_enrollments
add constraint course_enrollments_course_id_fkey foreign key (course_id) references courses (id);
alter table progress
add constraint progress_lesson_id_fkey foreign key (lesson_id) references lessons (id);
alter table module_completions
add constraint module_completions_module_id_fkey foreign key (module_id) references modules (id);
alter table course_completions
add constraint course_completions_course_id_fkey foreign key (course_id) references courses (id);

-- For stripe/copy.sql and stripe/release.sql: the index of the unique constraint answered before.
create index subscriptions_stripe_subscription_id_idx on subscriptions (stripe_subscription_id);

commit;

-- The rows are on the workers now. The old rows are still in the coordinator's own copies, where no query sees them.
select truncate_local_data_after_distributing_table('users');
select truncate_local_data_after_distributing_table('courses');

-- For make load-catalog, which counts completions on all workers and then writes the catalog, in one transaction.
select format('alter database %I set citus.multi_shard_modify_mode to %L', current_database(), 'sequential')
\gexec

vacuum (analyze) users, subscriptions, enrollments, course_enrollments, progress, module_completions,
course_completions, courses, modules, lessons, lesson_prerequisites, events;
