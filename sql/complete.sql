-- Writes the completions that follow from the marks of this transaction: of each marked lesson's module and course, if
-- every published lesson of the module, or of the course, is completed now. It runs after the mark, in the same
-- transaction and under lock.sql. A refused mark completes nothing.
--
-- The unique indexes of the two tables hold the rest of the rule: a learner has at most one open completion of a module
-- or a course, and no two with the same time.
--
-- Parameters:
--   user_id     uuid    the learner
--   lesson_ids  uuid[]  the lessons that the write was about
-- Returns: one row
--   completions  json  the completions that were written: moduleId or courseId, and completedAt. Modules come before
--                      courses, both by completedAt and then id
-- Buffers: 60 light, 60 heavy

with completed as materialized (
    select lesson_id
    from progress
    where user_id = :'user_id'::uuid
),

-- Most marks finish no module. So the search ends at the first lesson that is not completed, and each lesson is looked
-- up by its key. Each `offset 0` keeps its `not exists` a subquery of its own. Otherwise PostgreSQL might make a join,
-- and read everything that the learner has completed.
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
            select lessons.module_id
            from progress
            inner join lessons on progress.lesson_id = lessons.id
            where
                progress.user_id = :'user_id'::uuid
                and progress.lesson_id = any(:'lesson_ids'::uuid[])
                -- This transaction wrote the row: the mark was not refused.
                and progress.xmin = pg_current_xact_id_if_assigned()::xid
                -- A catalog load may have unpublished the lesson since the mark.
                and lessons.published
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

completed_modules as (
    insert into module_completions (user_id, module_id, completed_at)
    select
        :'user_id'::uuid as user_id,
        module_id,
        completed_at
    from finished_modules
    on conflict do nothing
    returning
        module_id,
        completed_at
),

completed_courses as (
    insert into course_completions (user_id, course_id, completed_at)
    select
        :'user_id'::uuid as user_id,
        course_id,
        completed_at
    from finished_courses
    on conflict do nothing
    returning
        course_id,
        completed_at
),

written as (
    select
        'moduleId' as id_name,
        module_id as id,
        completed_at
    from completed_modules
    union all
    select
        'courseId' as id_name,
        course_id as id,
        completed_at
    from completed_courses
)

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
    ) as completions
from written;
