-- Counts what an import will do. It runs after admin/import_faults.sql.
--
-- Parameters:
--   user_ids  uuid[]  the learners of the file
-- Returns: one row
--   completion_count  bigint  how many completions the file has: two rows of one learner and lesson are one
--   new_count         bigint  how many of these are not stored yet

with stored as materialized (
    select
        user_id,
        lesson_id
    from progress
    where user_id = any(:'user_ids'::uuid[])
),

completions as (
    select distinct
        user_id,
        lesson_id
    from imported
)

select
    count(*) as completion_count,
    count(*) filter (where stored.user_id is null) as new_count
from completions
left join stored
    on
        completions.user_id = stored.user_id
        and completions.lesson_id = stored.lesson_id;
