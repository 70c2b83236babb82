-- Deletes a learner's marks of all lessons of a module that the learner may take. Marks of other lessons stay. It runs
-- under lock.sql.
--
-- If it deletes a mark, it also closes the learner's open completion of the module: it sets started_over_at. The module
-- can then be completed once more.
--
-- Parameters:
--   user_id    uuid  the learner
--   module_id  uuid  the module
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   known          boolean  there is such a module, and the learner may take at least one of its lessons
--   removed_count  bigint   how many marks were deleted
--   removed        json     the deleted marks: lessonId, moduleId, courseId, completedAt, by completedAt and then id
-- Buffers: 20 light, 30 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

accessible as materialized (
    select
        lesson_id,
        module_id,
        course_id
    from accessible_lessons
    where user_id = :'user_id'::uuid and module_id = :'module_id'::uuid
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. So the cost does not
-- depend on the learner's other marks.
removed as (
    delete from progress
    where
        user_id = :'user_id'::uuid
        and lesson_id = any(array(select lesson_id from accessible))
    returning
        lesson_id,
        completed_at
),

started_over_modules as (
    update module_completions
    set started_over_at = statement_timestamp()
    where
        user_id = :'user_id'::uuid
        and started_over_at is null
        and module_id = :'module_id'::uuid
        and (select count(*) > 0 from removed)
)

select
    learner.enrolled,
    (select count(*) > 0 from accessible) as known,
    (select count(*) from removed) as removed_count,
    (
        select
            coalesce(
                json_agg(
                    json_build_object(
                        'lessonId', removed.lesson_id,
                        'moduleId', accessible.module_id,
                        'courseId', accessible.course_id,
                        'completedAt', to_char(removed.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                    order by date_trunc('milliseconds', removed.completed_at), removed.lesson_id
                ),
                '[]'
            )
        from removed
        inner join accessible on removed.lesson_id = accessible.lesson_id
    ) as removed
from learner;
