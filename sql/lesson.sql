-- How a lesson, its module, its course and all lessons together stand for a learner: the answer to a mark and to an
-- unmark. It runs after the write, in the same transaction and under lock.sql. So it counts this write and every write
-- answered before.
--
-- Parameters:
--   user_id    uuid  the learner
--   lesson_id  uuid  the lesson
-- Returns: one row, none if there is no such lesson
--   answer  json  lessonId, completed, completedAt, module, course (only if the module is in one), overall
-- Buffers: 40 light, 45 heavy

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

lesson as materialized (
    select
        lessons.id,
        lessons.module_id,
        modules.course_id
    from lessons
    inner join modules on lessons.module_id = modules.id
    where lessons.id = :'lesson_id'::uuid
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
        count(*) filter (where module_id = (select module_id from lesson) and is_completed) as module_completed_count,
        count(*) filter (where module_id = (select module_id from lesson)) as module_total_count,
        count(*) filter (where course_id = (select course_id from lesson) and is_completed) as course_completed_count,
        count(*) filter (where course_id = (select course_id from lesson)) as course_total_count
    from eligible
),

parts as (
    select
        lesson.id,
        lesson.course_id,
        progress.lesson_id is not null as completed,
        to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as completed_at,
        json_build_object(
            'moduleId', lesson.module_id,
            'percent', coalesce(100 * module_completed_count / nullif(module_total_count, 0), 0),
            'completedCount', module_completed_count,
            'totalCount', module_total_count
        ) as module,
        json_build_object(
            'courseId', lesson.course_id,
            'percent', coalesce(100 * course_completed_count / nullif(course_total_count, 0), 0),
            'completedCount', course_completed_count,
            'totalCount', course_total_count
        ) as course,
        json_build_object(
            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
            'completedCount', completed_count,
            'totalCount', total_count
        ) as overall
    from lesson
    cross join counts
    left join progress on lesson.id = progress.lesson_id and progress.user_id = :'user_id'::uuid
)

select
    case
        when course_id is null
            then json_build_object(
                'lessonId', id,
                'completed', completed,
                'completedAt', completed_at,
                'module', module,
                'overall', overall
            )
        else json_build_object(
            'lessonId', id,
            'completed', completed,
            'completedAt', completed_at,
            'module', module,
            'course', course,
            'overall', overall
        )
    end as answer
from parts;
