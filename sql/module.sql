-- How far a learner is in one module, and its eligible lessons.
--
-- Parameters:
--   user_id    uuid  the learner
--   module_id  uuid  the module
-- Returns: one row
--   access  text  full, free, or null: not enrolled
--   answer  json  moduleId, percent, completedCount, totalCount, lessons by position then id;
--                 null: no such module, or the learner may take none of its lessons
-- Buffers: 40 light, 55 heavy

with access as (
    select
        case
            when exists (
                select from subscriptions
                where user_id = :'user_id'::uuid and status in ('active', 'trialing') and current_period_end > now()
            ) then 'full'
            when exists (
                select from enrollments
                where user_id = :'user_id'::uuid and (expires_at is null or expires_at > now())
            ) then 'free'
        end as level
),

completed as materialized (
    select lesson_id
    from progress
    where user_id = :'user_id'::uuid
),

-- Hashed once, and probed per row, under a generic plan as under a custom one; a join could become a nested loop.
locked as materialized (
    select lesson_id
    from lesson_prerequisites
    where
        lesson_id not in (select lesson_id from completed)
        and prerequisite_id not in (select lesson_id from completed)
        -- The few that are not published, not the many that are: there is a hash to build of them.
        and prerequisite_id not in (
            select id from lessons
            where not published
        )
),

accessible as (
    select
        lesson.id,
        lesson.position,
        lesson.id not in (select lesson_id from locked) as eligible,
        progress.completed_at
    from lessons as lesson
    cross join access
    left join progress on lesson.id = progress.lesson_id and progress.user_id = :'user_id'::uuid
    where
        lesson.module_id = :'module_id'::uuid
        and lesson.published
        and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
),

counts as (
    select
        count(completed_at) as completed_count,
        count(*) filter (where eligible) as total_count,
        json_agg(
            json_build_object(
                'lessonId', id,
                'completed', completed_at is not null,
                'completedAt', to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
            )
            order by position, id
        ) filter (where eligible) as lessons
    from accessible
    having count(*) > 0
)

select
    access.level as access,
    (
        select
            json_build_object(
                'moduleId', :'module_id'::uuid,
                'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                'completedCount', completed_count,
                'totalCount', total_count,
                'lessons', coalesce(lessons, '[]')
            )
        from counts
    ) as answer
from access;
