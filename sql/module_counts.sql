-- How a module, its course and all lessons together stand for a learner: the answer to starting a module over. It runs
-- after the write, in the same transaction and under lock.sql. So it counts this write and every write answered before.
--
-- Parameters:
--   user_id    uuid  the learner
--   module_id  uuid  the module
-- Returns: one row
--   answer  json  module, course (only if the module is in one), overall
-- Buffers: 35 light, 40 heavy

with completed as materialized (
    select lesson_id
    from progress
    where user_id = :'user_id'::uuid
),

-- Each `not in` becomes a hash table that is built once, under a generic plan and under a custom plan. A join might
-- become a nested loop.
locked as materialized (
    select
        lesson_id,
        prerequisite_id
    from published_prerequisites
    where
        lesson_id not in (select lesson_id from completed)
        and prerequisite_id not in (select lesson_id from completed)
),

module as materialized (
    select course_id
    from modules
    where id = :'module_id'::uuid
),

-- `offset 0` keeps this a subquery of its own. Otherwise PostgreSQL would copy the `in` into each count below, and
-- build the hash table of the completed lessons once for each.
eligible as (
    select
        module_id,
        course_id,
        lesson_id in (select lesson_id from completed) as is_completed
    from accessible_lessons
    where
        user_id = :'user_id'::uuid
        and lesson_id not in (select lesson_id from locked)
    offset 0 -- noqa: AM09
),

-- One pass over the catalog counts for the module, for the course and for everything.
counts as (
    select
        count(*) filter (where is_completed) as completed_count,
        count(*) as total_count,
        count(*) filter (where module_id = :'module_id'::uuid and is_completed) as module_completed_count,
        count(*) filter (where module_id = :'module_id'::uuid) as module_total_count,
        count(*) filter (where course_id = (select course_id from module) and is_completed) as course_completed_count,
        count(*) filter (where course_id = (select course_id from module)) as course_total_count
    from eligible
)

-- Without a course, `course` is null, and is left out. No other value is null.
select
    json_strip_nulls(json_build_object(
        'module', json_build_object(
            'moduleId', :'module_id'::uuid,
            'percent', coalesce(100 * module_completed_count / nullif(module_total_count, 0), 0),
            'completedCount', module_completed_count,
            'totalCount', module_total_count
        ),
        'course', (
            select
                json_build_object(
                    'courseId', course_id,
                    'percent', coalesce(100 * course_completed_count / nullif(course_total_count, 0), 0),
                    'completedCount', course_completed_count,
                    'totalCount', course_total_count
                )
            from module
            where course_id is not null
        ),
        'overall', json_build_object(
            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
            'completedCount', completed_count,
            'totalCount', total_count
        )
    )) as answer
from counts;
