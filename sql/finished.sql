-- Which completions follow from the marks of a write: of each marked lesson's module and course, if every published
-- lesson of the module, or of the course, is completed now, and no completion of it is stored yet. It runs after the
-- marks, in the same transaction and under lock.sql. complete_modules.sql and complete_courses.sql then store what it
-- found.
--
-- Parameters:
--   user_id  uuid    the learner
--   to_mark  uuid[]  the lessons that were marked
-- Returns: one row
--   completions           json  moduleId or courseId, and completedAt. Modules come before courses, both by completedAt
--                               and then id
--   module_ids            text  the modules, as an array of uuid
--   module_completed_ats  text  when each of them was completed, as an array of timestamptz
--   course_ids            text  the courses, as an array of uuid
--   course_completed_ats  text  when each of them was completed, as an array of timestamptz
-- Buffers: 60 light, 60 heavy

with completed as materialized (
    select lesson_id
    from progress
    where user_id = :'user_id'::uuid
),

-- The search ends at the first lesson that is not completed, and each lesson is looked up by its key. Each `offset 0`
-- keeps its `not exists` a subquery of its own. Otherwise PostgreSQL might make a join, and read everything that the
-- learner has completed.
finished_modules as materialized (
    select
        modules.id as module_id,
        modules.course_id,
        (
            select max(progress.completed_at)
            from lessons
            inner join progress on lessons.id = progress.lesson_id
            where lessons.module_id = modules.id and lessons.published and progress.user_id = :'user_id'::uuid
        ) as completed_at
    from modules
    where
        modules.id = any(array(
            select module_id
            from lessons
            where
                id = any(:'to_mark'::uuid[])
                -- A catalog load may have unpublished the lesson since the mark.
                and published
        ))
        and not exists (
            select
            from lessons
            where
                lessons.module_id = modules.id
                and lessons.published
                and not exists (
                    select
                    from progress
                    where progress.user_id = :'user_id'::uuid and progress.lesson_id = lessons.id
                    offset 0 -- noqa: AM09
                )
            offset 0 -- noqa: AM09
        )
),

-- A course is looked at only if one of its modules is finished. A course may have many lessons, so `not in` asks a hash
-- table.
finished_courses as materialized (
    select
        course_id,
        (
            select max(progress.completed_at)
            from modules
            inner join lessons on modules.id = lessons.module_id
            inner join progress on lessons.id = progress.lesson_id
            where
                modules.course_id = courses.course_id
                and lessons.published
                and progress.user_id = :'user_id'::uuid
        ) as completed_at
    from (
        select distinct course_id
        from finished_modules
        where course_id is not null
    ) as courses
    where not exists (
        select
        from modules
        inner join lessons on modules.id = lessons.module_id
        where
            modules.course_id = courses.course_id
            and lessons.published
            and lessons.id not in (select lesson_id from completed)
        offset 0 -- noqa: AM09
    )
),

-- A completion is stored once while it is open, and once for each time.
new_modules as materialized (
    select
        module_id,
        completed_at
    from finished_modules
    where not exists (
        select from module_completions as stored
        where
            stored.user_id = :'user_id'::uuid
            and stored.module_id = finished_modules.module_id
            and (stored.started_over_at is null or stored.completed_at = finished_modules.completed_at)
    )
),

new_courses as materialized (
    select
        course_id,
        completed_at
    from finished_courses
    where not exists (
        select from course_completions as stored
        where
            stored.user_id = :'user_id'::uuid
            and stored.course_id = finished_courses.course_id
            and (stored.started_over_at is null or stored.completed_at = finished_courses.completed_at)
    )
)

select
    (
        select
            coalesce(
                json_agg(
                    json_build_object(
                        id_name, id,
                        'completedAt', to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                    order by id_name desc, date_trunc('milliseconds', completed_at) asc, id asc
                ),
                '[]'
            )
        from (
            select
                'moduleId' as id_name,
                module_id as id,
                completed_at
            from new_modules
            union all
            select
                'courseId' as id_name,
                course_id as id,
                completed_at
            from new_courses
        ) as found
    ) as completions,
    array(
        select module_id from new_modules
        order by module_id
    )::text as module_ids,
    array(
        select completed_at from new_modules
        order by module_id
    )::text as module_completed_ats,
    array(
        select course_id from new_courses
        order by course_id
    )::text as course_ids,
    array(
        select completed_at from new_courses
        order by course_id
    )::text as course_completed_ats;
