-- How far a learner is over everything they may take.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   access  text  full, free, or null: not enrolled
--   answer  json  percent, completedCount, totalCount
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

counts as (
    select
        count(*) filter (where lesson.id in (select lesson_id from completed)) as completed_count,
        count(*) as total_count
    from lessons as lesson
    cross join access
    where
        lesson.published
        and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
        and lesson.id not in (select lesson_id from locked)
)

select
    access.level as access,
    json_build_object(
        'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
        'completedCount', completed_count,
        'totalCount', total_count
    ) as answer
from access
cross join counts;
