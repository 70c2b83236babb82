-- Deletes a learner's completions of every lesson that the learner may take. Completions of lessons that the learner
-- may not take now stay. It runs under lock.sql.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   removed_count  bigint   how many completions were deleted
-- Buffers: 120 light, 1300 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

accessible as materialized (
    select lesson_id
    from accessible_lessons
    where user_id = :'user_id'::uuid
),

-- `is true` keeps the `in` a hash table that is built once, under a generic plan and under a custom plan. Without it,
-- PostgreSQL makes a join of the `in`, which might become a nested loop.
removed as (
    delete from progress
    where
        user_id = :'user_id'::uuid
        and (lesson_id in (select lesson_id from accessible)) is true
    returning lesson_id
)

select
    learner.enrolled,
    (select count(*) from removed) as removed_count
from learner;
