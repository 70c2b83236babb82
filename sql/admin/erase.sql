-- Deletes what a learner has in the tables that have a row for each learner or lesson. Run it after
-- admin/erase_locks.sql and lock.sql, in their transaction. So it sees what a write before it has stored, and a write
-- after it finds the learner without access.
--
-- Citus refuses a statement that changes tables of several kinds. So admin/erase_events.sql and admin/erase_stripe.sql
-- are statements of their own.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per table
--   table_name  text    the table
--   row_count   bigint  how many rows it had of the learner
-- Buffers: 120 light, 1400 heavy

with removed_progress as (
    delete from progress
    where user_id = :'user_id'::uuid
    returning lesson_id
),

removed_module_completions as (
    delete from module_completions
    where user_id = :'user_id'::uuid
    returning module_id
),

removed_course_completions as (
    delete from course_completions
    where user_id = :'user_id'::uuid
    returning course_id
),

removed_subscriptions as (
    delete from subscriptions
    where user_id = :'user_id'::uuid
    returning user_id
),

removed_enrollments as (
    delete from enrollments
    where user_id = :'user_id'::uuid
    returning user_id
),

removed_course_enrollments as (
    delete from course_enrollments
    where user_id = :'user_id'::uuid
    returning course_id
)

select
    'progress' as table_name,
    count(*) as row_count
from removed_progress
union all
select
    'module_completions' as table_name,
    count(*) as row_count
from removed_module_completions
union all
select
    'course_completions' as table_name,
    count(*) as row_count
from removed_course_completions
union all
select
    'subscriptions' as table_name,
    count(*) as row_count
from removed_subscriptions
union all
select
    'enrollments' as table_name,
    count(*) as row_count
from removed_enrollments
union all
select
    'course_enrollments' as table_name,
    count(*) as row_count
from removed_course_enrollments;
