-- Everything that a checklist shows: each lesson that the learner may take, its state, and what keeps it locked.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     modules and their lessons in catalog order, overall; each with lockedCount
-- Buffers: 60 light, 70 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

completed as materialized (
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

-- A row for each locked lesson, with all that must be completed first, in catalog order.
due as (
    select
        locked.lesson_id,
        json_agg(
            prerequisite.id
            order by
                course.position nulls first, course.id, module.position, module.id,
                prerequisite.position, prerequisite.id
        ) as prerequisites
    from locked
    inner join lessons as prerequisite on locked.prerequisite_id = prerequisite.id
    inner join modules as module on prerequisite.module_id = module.id
    left join courses as course on module.course_id = course.id
    group by locked.lesson_id
),

counts as (
    select
        lesson.module_id,
        count(progress.completed_at) as completed_count,
        count(*) filter (where due.prerequisites is null) as total_count,
        count(due.prerequisites) as locked_count,
        json_agg(
            json_build_object(
                'lessonId', lesson.lesson_id,
                'title', lesson.title,
                'state', case
                    when progress.completed_at is not null then 'completed'
                    when due.prerequisites is null then 'available'
                    else 'locked'
                end,
                'completedAt', to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'prerequisites', coalesce(due.prerequisites, '[]')
            )
            order by lesson.position, lesson.lesson_id
        ) as lessons
    from accessible_lessons as lesson
    left join due on lesson.lesson_id = due.lesson_id
    left join progress on lesson.user_id = progress.user_id and lesson.lesson_id = progress.lesson_id
    where lesson.user_id = :'user_id'::uuid
    group by lesson.module_id
),

overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count,
        coalesce(sum(locked_count), 0)::bigint as locked_count,
        coalesce(
            json_agg(
                json_build_object(
                    'moduleId', module.id,
                    'courseId', module.course_id,
                    'title', module.title,
                    'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                    'completedCount', completed_count,
                    'totalCount', total_count,
                    'lockedCount', locked_count,
                    'lessons', lessons
                )
                order by course.position nulls first, course.id, module.position, module.id
            ),
            '[]'
        ) as modules
    from counts
    inner join modules as module on counts.module_id = module.id
    left join courses as course on module.course_id = course.id
)

select
    learner.enrolled,
    json_build_object(
        'modules', modules,
        'overall', json_build_object(
            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
            'completedCount', completed_count,
            'totalCount', total_count,
            'lockedCount', locked_count
        )
    ) as answer
from learner
cross join overall;
