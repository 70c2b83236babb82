-- For each lesson, how many learners have access to it now, how many completed it, and how many days after their first
-- completion.
--
-- It counts the learners of each kind of access once, and adds up what gives access to a lesson. A row for each learner
-- and each lesson would be too many. A test compares the result with accessible_lessons.
--
-- Parameters:
--   course_id  text  the course, as if there were no other lessons; empty: all lessons, in a course or not
-- Returns: a row per lesson, in the order of the catalog: the published ones, and others that somebody completed
--   course_id        uuid     its course; null: it is in none
--   course_title     text     the title of the course
--   module_id        uuid     its module
--   module_title     text     the title of the module
--   lesson_id        uuid     the lesson
--   lesson_title     text     its title
--   access_count     bigint   learners who may take it now, locked or not; 0 if it is not published
--   completed_count  bigint   learners who completed it, whatever access they have now
--   median_days      numeric  the median of the days from a learner's first completion of any of these lessons to the
--                             completion of this one, to a tenth; null: nobody completed it
-- Buffers: 330 course, 330 all

with lesson as materialized (
    select
        lessons.id,
        lessons.title,
        lessons.position,
        lessons.published,
        lessons.is_free,
        modules.id as module_id,
        modules.title as module_title,
        modules.position as module_position,
        modules.course_id
    from lessons
    inner join modules on lessons.module_id = modules.id
    where nullif(:'course_id', '') is null or modules.course_id = nullif(:'course_id', '')::uuid
),

access as materialized (
    select
        full_access,
        free_access,
        course_ids
    from learner_access
),

everywhere as (
    select
        count(*) filter (where full_access) as full_count,
        count(*) filter (where not full_access and free_access) as free_count
    from access
),

-- Of learners without full access: those who have the course, and those of them who have it without free access.
in_courses as (
    select
        course_id,
        count(*) as course_count,
        count(*) filter (where not free_access) as course_only_count
    from access
    cross join unnest(course_ids) as course_id
    where not full_access
    group by course_id
),

completed_days as (
    select
        lesson_id,
        date_part('epoch', completed_at - min(completed_at) over (partition by user_id)) / 86400 as days
    from progress
    where nullif(:'course_id', '') is null or lesson_id in (select id from lesson)
),

completed_counts as (
    select
        lesson_id,
        count(*) as completed_count,
        percentile_cont(0.5) within group (order by days) as median_days
    from completed_days
    group by lesson_id
)

select
    courses.id as course_id,
    courses.title as course_title,
    lesson.module_id,
    lesson.module_title,
    lesson.id as lesson_id,
    lesson.title as lesson_title,
    case
        when not lesson.published then 0
        when lesson.is_free then full_count + free_count + coalesce(course_only_count, 0)
        else full_count + coalesce(course_count, 0)
    end as access_count,
    coalesce(completed_count, 0) as completed_count,
    round(median_days::numeric, 1) as median_days
from lesson
cross join everywhere
left join in_courses on lesson.course_id = in_courses.course_id
left join completed_counts on lesson.id = completed_counts.lesson_id
left join courses on lesson.course_id = courses.id
where lesson.published or completed_count > 0
order by
    courses.position nulls first, courses.id, lesson.module_position, lesson.module_id, lesson.position, lesson.id;
