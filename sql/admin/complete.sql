-- Writes the missing completions of some learners: of each module and each course of which every published lesson is
-- completed. They are missing if the progress came by plain SQL. It runs under the lock of admin/complete_learners.sql.
--
-- The unique indexes of the two tables hold the rest of the rule: a learner has at most one open completion of a module
-- or a course, and no two with the same time.
--
-- Parameters:
--   user_ids  uuid[]  the learners
-- Returns: one row
--   module_count  bigint  how many completions of modules were written
--   course_count  bigint  how many completions of courses were written
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

completed_modules as (
    insert into module_completions (user_id, module_id, completed_at)
    select
        own.user_id,
        own.module_id,
        own.completed_at
    from own
    inner join published on own.module_id = published.module_id and own.lesson_count = published.lesson_count
    on conflict do nothing
    returning user_id
),

completed_courses as (
    insert into course_completions (user_id, course_id, completed_at)
    select
        own_courses.user_id,
        own_courses.course_id,
        own_courses.completed_at
    from own_courses
    inner join published_courses
        on
            own_courses.course_id = published_courses.course_id
            and own_courses.lesson_count = published_courses.lesson_count
    on conflict do nothing
    returning user_id
)

select
    (select count(*) from completed_modules) as module_count,
    (select count(*) from completed_courses) as course_count;
