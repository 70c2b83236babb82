-- Deletes a learner's marks of all lessons of a course that the learner may take. Marks of other lessons stay. It runs
-- under lock.sql.
--
-- If it deletes a mark, it also closes the learner's open completions of the course, and of each module of which it
-- deletes a mark: it sets started_over_at. The course and the modules can then be completed once more.
--
-- Parameters:
--   user_id    uuid  the learner
--   course_id  uuid  the course
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   known          boolean  there is such a course, and the learner may take at least one of its lessons
--   removed_count  bigint   how many marks were deleted
--   removed        json     the deleted marks: lessonId, moduleId, courseId, completedAt, by completedAt and then id
-- Buffers: 25 light, 35 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. With a condition on
-- course_id, PostgreSQL might read the whole catalog.
accessible as materialized (
    select
        lesson_id,
        module_id,
        course_id
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
        and course_id = :'course_id'::uuid
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
