-- How far a learner is in one module, and its eligible lessons. It reads the lessons of this module and what they need,
-- and not the whole catalog.
--
-- Parameters:
--   user_id    uuid  the learner
--   module_id  uuid  the module
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     moduleId, percent, completedCount, totalCount, lessons by position then id;
--                      null: no such module, or the learner may take none of its lessons
-- Buffers: 30 light, 40 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

accessible as materialized (
    select
        lesson_id,
        position
    from accessible_lessons
    where user_id = :'user_id'::uuid and module_id = :'module_id'::uuid
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. With `in`, PostgreSQL
-- might read the whole table.
prerequisites as materialized (
    select
        lesson_id,
        prerequisite_id
    from published_prerequisites
    where lesson_id = any(array(select lesson_id from accessible))
),

-- The completions of the module's lessons and of their prerequisites. Others do not matter here.
completed as materialized (
    select
        lesson_id,
        completed_at
    from progress
    where
        user_id = :'user_id'::uuid
        and lesson_id = any(array(
            select lesson_id from accessible
            union all
            select prerequisite_id from prerequisites
        ))
),

-- Each `not in` becomes a hash table that is built once, under a generic plan and under a custom plan. A join might
-- become a nested loop.
locked as materialized (
    select
        lesson_id,
        prerequisite_id
    from prerequisites
    where
        lesson_id not in (select lesson_id from completed)
        and prerequisite_id not in (select lesson_id from completed)
),

counts as (
    select
        count(completed.completed_at) as completed_count,
        count(*) as total_count,
        json_agg(
            json_build_object(
                'lessonId', accessible.lesson_id,
                'completed', completed.completed_at is not null,
                'completedAt', to_char(completed.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
            )
            order by accessible.position, accessible.lesson_id
        ) as lessons
    from accessible
    left join completed on accessible.lesson_id = completed.lesson_id
    where accessible.lesson_id not in (select lesson_id from locked)
)

select
    learner.enrolled,
    case
        when exists (select from accessible)
            then json_build_object(
                'moduleId', :'module_id'::uuid,
                'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                'completedCount', completed_count,
                'totalCount', total_count,
                'lessons', coalesce(lessons, '[]')
            )
    end as answer
from learner
cross join counts;
