-- Deletes a learner's completions of every lesson of a course that the learner may take. Completions of other lessons
-- stay. It runs under lock.sql.
--
-- Parameters:
--   user_id    uuid  the learner
--   course_id  uuid  the course
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   known          boolean  there is such a course, and the learner may take at least one of its lessons
--   removed_count  bigint   how many completions were deleted
-- Buffers: 25 light, 35 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. With a condition on
-- course_id, PostgreSQL might read the whole catalog.
accessible as materialized (
    select lesson_id
    from accessible_lessons
    where
        user_id = :'user_id'::uuid
        and module_id = any(array(
            select id
            from modules
            where course_id = :'course_id'::uuid
        ))
),

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
