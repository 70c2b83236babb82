-- How many learners began each module, and how many finished it.
--
-- A learner began a module who has completed at least one of its lessons, or has finished it. A learner finished a
-- module who has a completion of it: every published lesson was completed at one time. The completion stays when
-- lessons are added, unmarked or started over. Each learner counts once, whatever access the learner has now.
--
-- Parameters:
--   course_id  text  the course; empty: all modules, in a course or not
-- Returns: a row per module, in the order of the catalog, without modules that have no published lesson and that nobody
--          began
--   course_id       uuid    its course; null: it is in none
--   course_title    text    the title of the course
--   module_id       uuid    the module
--   module_title    text    its title
--   lesson_count    bigint  its published lessons
--   began_count     bigint  learners who began it
--   finished_count  bigint  learners who finished it
-- Buffers: 390 course, 390 all

with module as materialized (
    select
        id,
        course_id,
        title,
        position
    from modules
    where nullif(:'course_id', '') is null or course_id = nullif(:'course_id', '')::uuid
),

began as (
    select
        lessons.module_id,
        progress.user_id
    from progress
    inner join lessons on progress.lesson_id = lessons.id
    union
    select
        module_id,
        user_id
    from module_completions
),

began_counts as (
    select
        module_id,
        count(*) as began_count
    from began
    where module_id in (select id from module)
    group by module_id
),

finished_counts as (
    select
        module_id,
        count(distinct user_id) as finished_count
    from module_completions
    group by module_id
),

lesson_counts as (
    select
        module_id,
        count(*) as lesson_count
    from lessons
    where published
    group by module_id
)

select
    courses.id as course_id,
    courses.title as course_title,
    module.id as module_id,
    module.title as module_title,
    coalesce(lesson_count, 0) as lesson_count,
    coalesce(began_count, 0) as began_count,
    coalesce(finished_count, 0) as finished_count
from module
left join courses on module.course_id = courses.id
left join lesson_counts on module.id = lesson_counts.module_id
left join began_counts on module.id = began_counts.module_id
left join finished_counts on module.id = finished_counts.module_id
where lesson_count > 0 or began_count > 0
order by courses.position nulls first, courses.id, module.position, module.id;
