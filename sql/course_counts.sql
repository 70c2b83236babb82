-- How a course and all lessons together stand for a learner: the answer to starting a course over. It runs after the
-- write, in the same transaction and under lock.sql. So it counts this write and every write answered before.
--
-- Parameters:
--   user_id    uuid  the learner
--   course_id  uuid  the course
-- Returns: one row
--   answer  json  course, overall
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

-- `offset 0` keeps this a subquery of its own. Otherwise PostgreSQL would copy the `in` into each count below, and
-- build the hash table of the completed lessons once for each.
eligible as (
    select
        course_id,
        lesson_id in (select lesson_id from completed) as is_completed
    from accessible_lessons
    where
        user_id = :'user_id'::uuid
        and lesson_id not in (select lesson_id from locked)
    offset 0 -- noqa: AM09
),

-- One pass over the catalog counts for the course and for everything.
counts as (
    select
        count(*) filter (where is_completed) as completed_count,
        count(*) as total_count,
        count(*) filter (where course_id = :'course_id'::uuid and is_completed) as course_completed_count,
        count(*) filter (where course_id = :'course_id'::uuid) as course_total_count
    from eligible
)

select
    json_build_object(
        'course', json_build_object(
            'courseId', :'course_id'::uuid,
            'percent', coalesce(100 * course_completed_count / nullif(course_total_count, 0), 0),
            'completedCount', course_completed_count,
            'totalCount', course_total_count
        ),
        'overall', json_build_object(
            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
            'completedCount', completed_count,
            'totalCount', total_count
        )
    ) as answer
from counts;
