-- How far a learner is in each module that they may take lessons of, and overall.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   access  text  full, free, or null: not enrolled
--   answer  json  modules by position then id, overall
-- Buffers: 50 light, 55 heavy

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
        lesson.module_id,
        lesson.id in (select lesson_id from completed) as completed,
        lesson.id in (select lesson_id from locked) as locked
    from lessons as lesson
    cross join access
    where
        lesson.published
        and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
),

counts as materialized (
    select
        module_id,
        count(*) filter (where completed) as completed_count,
        count(*) filter (where not locked) as total_count
    from accessible
    group by module_id
),

overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count
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
                            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                            'completedCount', completed_count,
                            'totalCount', total_count
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
                    'totalCount', total_count
                )
            from overall
        )
    ) as answer
from access;
