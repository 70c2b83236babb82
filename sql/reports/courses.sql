-- How many learners began each course, and how many finished it.
--
-- A learner began a course who has completed at least one of its lessons, or has finished it. A learner finished a
-- course who has a completion of it: every published lesson was completed at one time. The completion stays when
-- lessons are added, unmarked or started over. Each learner counts once, whatever access the learner has now.
--
-- Parameters: none
-- Returns: a row per course, in the order of the catalog, without courses that have no published lesson and that nobody
--          began
--   course_id       uuid    the course
--   course_title    text    its title
--   lesson_count    bigint  its published lessons
--   began_count     bigint  learners who began it
--   finished_count  bigint  learners who finished it
-- Buffers: 370 all

with began as (
    select
        modules.course_id,
        progress.user_id
    from progress
    inner join lessons on progress.lesson_id = lessons.id
    inner join modules on lessons.module_id = modules.id
    where modules.course_id is not null
    union
    select
        course_id,
        user_id
    from course_completions
),

began_counts as (
    select
        course_id,
        count(*) as began_count
    from began
    group by course_id
),

finished_counts as (
    select
        course_id,
        count(distinct user_id) as finished_count
    from course_completions
    group by course_id
),

lesson_counts as (
    select
        modules.course_id,
        count(*) as lesson_count
    from modules
    inner join lessons on modules.id = lessons.module_id
    where lessons.published
    group by modules.course_id
)

select
    courses.id as course_id,
    courses.title as course_title,
    coalesce(lesson_count, 0) as lesson_count,
    coalesce(began_count, 0) as began_count,
    coalesce(finished_count, 0) as finished_count
from courses
left join lesson_counts on courses.id = lesson_counts.course_id
left join began_counts on courses.id = began_counts.course_id
left join finished_counts on courses.id = finished_counts.course_id
where lesson_count > 0 or began_count > 0
order by courses.position, courses.id;
