-- Deletes a learner's completions of every lesson of a module that the learner may take. Completions of other lessons
-- stay. It runs under lock.sql.
--
-- Parameters:
--   user_id    uuid  the learner
--   module_id  uuid  the module
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   known          boolean  there is such a module, and the learner may take at least one of its lessons
--   removed_count  bigint   how many completions were deleted
-- Buffers: 20 light, 30 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

accessible as materialized (
    select lesson_id
    from accessible_lessons
    where user_id = :'user_id'::uuid and module_id = :'module_id'::uuid
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. So the cost does not
-- depend on the learner's other completions.
removed as (
    delete from progress
    where
        user_id = :'user_id'::uuid
        and lesson_id = any(array(select lesson_id from accessible))
    returning lesson_id
)

select
    learner.enrolled,
    (select count(*) > 0 from accessible) as known,
    (select count(*) from removed) as removed_count
from learner;
