-- Deletes a learner's marks of all lessons that the learner may take. Marks of lessons that the learner may not take
-- now stay. It runs under lock.sql.
--
-- It also closes the learner's open completion of each module and each course of which it deletes a mark: it sets
-- started_over_at. The module or the course can then be completed once more.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   removed_count  bigint   how many marks were deleted
--   removed        json     the deleted marks: lessonId, moduleId, courseId, completedAt, by completedAt and then id
-- Buffers: 120 light, 1300 heavy

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
    where user_id = :'user_id'::uuid
),

-- With `is true`, the `in` becomes a hash table that is built once, under a generic plan and under a custom plan.
-- Without `is true`, PostgreSQL makes a join of the `in`, which might become a nested loop.
removed as (
    delete from progress
    where
        user_id = :'user_id'::uuid
        and (lesson_id in (select lesson_id from accessible)) is true
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
        and module_id = any(array(
            select accessible.module_id
            from removed
            inner join accessible on removed.lesson_id = accessible.lesson_id
        ))
),

started_over_courses as (
    update course_completions
    set started_over_at = statement_timestamp()
    where
        user_id = :'user_id'::uuid
        and started_over_at is null
        and course_id = any(array(
            select accessible.course_id
            from removed
            inner join accessible on removed.lesson_id = accessible.lesson_id
        ))
)

select
    learner.enrolled,
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
