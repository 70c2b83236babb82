-- Who completed which module or course, and when. A learner who started over and completed it again has a row for each
-- time. Completions stay, so a row may be of a learner without access, and of a module that has new lessons since.
--
-- Parameters:
--   course_id  text  the course, and its modules; empty: all courses and modules
--   since      text  the first day, such as 2026-01-31; empty: from the first completion on
-- Returns: a row per completion, by time, modules before courses, then by id
--   day      text  the day in UTC, such as 2026-01-31
--   user_id  uuid  the learner
--   kind     text  module or course
--   id       uuid  the module or the course
--   title    text  its title
-- Buffers: 40 course, 80 all

with completion as (
    select
        module_completions.completed_at,
        module_completions.user_id,
        'module' as kind,
        modules.id,
        modules.title,
        modules.course_id
    from module_completions
    inner join modules on module_completions.module_id = modules.id
    union all
    select
        course_completions.completed_at,
        course_completions.user_id,
        'course' as kind,
        courses.id,
        courses.title,
        courses.id as course_id
    from course_completions
    inner join courses on course_completions.course_id = courses.id
)

select
    to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD') as day,
    user_id,
    kind,
    id,
    title
from completion
where
    (nullif(:'course_id', '') is null or course_id = nullif(:'course_id', '')::uuid)
    and (nullif(:'since', '') is null or completed_at >= nullif(:'since', '')::date::timestamp at time zone 'UTC')
order by completed_at asc, kind desc, id asc, user_id asc;
