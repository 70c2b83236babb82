-- Which completions of some learners are not stored: of each module and each course of which every published lesson is
-- completed. They are missing if the progress came by plain SQL. It runs under lock.sql for each learner.
-- complete_modules.sql and complete_courses.sql then store what it found.
--
-- Parameters:
--   user_ids  uuid[]  the learners
-- Returns: one row for each learner of whom a completion is missing
--   user_id               uuid  the learner
--   module_ids            text  the modules, as an array of uuid
--   module_completed_ats  text  when each of them was completed, as an array of timestamptz
--   course_ids            text  the courses, as an array of uuid
--   course_completed_ats  text  when each of them was completed, as an array of timestamptz
-- Buffers: 150 light, 320 heavy

with published as materialized (
    select
        modules.id as module_id,
        modules.course_id,
        count(*) as lesson_count
    from modules
    inner join lessons on modules.id = lessons.module_id
    where lessons.published
    group by modules.id
),

published_courses as (
    select
        course_id,
        sum(lesson_count) as lesson_count
    from published
    where course_id is not null
    group by course_id
),

own as materialized (
    select
        progress.user_id,
        lessons.module_id,
        count(*) as lesson_count,
        max(progress.completed_at) as completed_at
    from progress
    inner join lessons on progress.lesson_id = lessons.id
    where progress.user_id = any(:'user_ids'::uuid[]) and lessons.published
    group by progress.user_id, lessons.module_id
),

own_courses as (
    select
        own.user_id,
        published.course_id,
        sum(own.lesson_count) as lesson_count,
        max(own.completed_at) as completed_at
    from own
    inner join published on own.module_id = published.module_id
    group by own.user_id, published.course_id
),

-- A completion is stored once while it is open, and once for each time. Each `not in` becomes a hash table.
stored_modules as materialized (
    select
        user_id,
        module_id,
        completed_at,
        started_over_at
    from module_completions
    where user_id = any(:'user_ids'::uuid[])
),

stored_courses as materialized (
    select
        user_id,
        course_id,
        completed_at,
        started_over_at
    from course_completions
    where user_id = any(:'user_ids'::uuid[])
),

missing as (
    select
        own.user_id,
        own.module_id,
        null::uuid as course_id,
        own.completed_at
    from own
    inner join published on own.module_id = published.module_id and own.lesson_count = published.lesson_count
    where
        (own.user_id, own.module_id) not in (
            select
                user_id,
                module_id
            from stored_modules
            where started_over_at is null
        )
        and (own.user_id, own.module_id, own.completed_at) not in (
            select
                user_id,
                module_id,
                completed_at
            from stored_modules
        )
    union all
    select
        own_courses.user_id,
        null as module_id,
        own_courses.course_id,
        own_courses.completed_at
    from own_courses
    inner join published_courses
        on
            own_courses.course_id = published_courses.course_id
            and own_courses.lesson_count = published_courses.lesson_count
    where
        (own_courses.user_id, own_courses.course_id) not in (
            select
                user_id,
                course_id
            from stored_courses
            where started_over_at is null
        )
        and (own_courses.user_id, own_courses.course_id, own_courses.completed_at) not in (
            select
                user_id,
                course_id,
                completed_at
            from stored_courses
        )
)

select
    user_id,
    coalesce(array_agg(module_id order by module_id) filter (where module_id is not null), '{}')::text as module_ids,
    coalesce(
        array_agg(completed_at order by module_id) filter (where module_id is not null),
        '{}'
    )::text as module_completed_ats,
    coalesce(array_agg(course_id order by course_id) filter (where course_id is not null), '{}')::text as course_ids,
    coalesce(
        array_agg(completed_at order by course_id) filter (where course_id is not null),
        '{}'
    )::text as course_completed_ats
from missing
group by user_id;
