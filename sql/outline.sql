-- Everything a checklist shows: every lesson that a learner may take, completed, available or locked, and by what.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   access  text  full, free, or null: not enrolled
--   answer  json  modules and their lessons in catalog order, overall; each with lockedCount
-- Buffers: 120 light, 1235 heavy

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

-- A row per lesson that is locked, and what must be completed first. Hashed subplans, as everywhere: see summary.sql.
locked as materialized (
    select
        lesson_prerequisites.lesson_id,
        json_agg(
            prerequisite.id order by module.position, module.id, prerequisite.position, prerequisite.id
        ) as prerequisites
    from lesson_prerequisites
    inner join lessons as prerequisite on lesson_prerequisites.prerequisite_id = prerequisite.id
    inner join modules as module on prerequisite.module_id = module.id
    where
        lesson_prerequisites.lesson_id not in (select lesson_id from completed)
        and prerequisite.id not in (select lesson_id from completed)
        and prerequisite.published
    group by lesson_prerequisites.lesson_id
),

accessible as materialized (
    select
        lesson.id,
        lesson.module_id,
        lesson.position,
        lesson.title,
        locked.prerequisites,
        -- By primary key, for the completed ones alone: joined, it could become a nested loop over all of them.
        case when lesson.id in (select lesson_id from completed) then (
            select completed_at
            from progress
            where user_id = :'user_id'::uuid and lesson_id = lesson.id
        ) end as completed_at
    from lessons as lesson
    cross join access
    left join locked on lesson.id = locked.lesson_id
    where
        lesson.published
        and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
),

counts as materialized (
    select
        module_id,
        count(completed_at) as completed_count,
        count(*) filter (where prerequisites is null) as total_count,
        count(prerequisites) as locked_count,
        json_agg(
            json_build_object(
                'lessonId', id,
                'title', title,
                'state', case
                    when completed_at is not null then 'completed'
                    when prerequisites is null then 'available'
                    else 'locked'
                end,
                'completedAt', to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'prerequisites', coalesce(prerequisites, '[]')
            )
            order by position, id
        ) as lessons
    from accessible
    group by module_id
),

overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count,
        coalesce(sum(locked_count), 0)::bigint as locked_count
    from counts
)

select
    access.level as access,
    json_build_object(
        'modules',
        (
            select
                coalesce(
                    json_agg(
                        json_build_object(
                            'moduleId', module.id,
                            'title', module.title,
                            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                            'completedCount', completed_count,
                            'totalCount', total_count,
                            'lockedCount', locked_count,
                            'lessons', lessons
                        )
                        order by module.position, module.id
                    ),
                    '[]'
                )
            from counts
            inner join modules as module on counts.module_id = module.id
        ),
        'overall',
        (
            select
                json_build_object(
                    'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                    'completedCount', completed_count,
                    'totalCount', total_count,
                    'lockedCount', locked_count
                )
            from overall
        )
    ) as answer
from access;
