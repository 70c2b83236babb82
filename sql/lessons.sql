-- The eligible lessons that a learner has completed, in the order in which they did.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   access  text  full, free, or null: not enrolled
--   answer  json  lessons by completedAt then id
-- Buffers: 30 light, 40 heavy

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

-- By itself, for the planner would rather look up each lesson of the catalog in a long list of completions.
completed as materialized (
    select
        lesson_id,
        completed_at
    from progress
    where user_id = :'user_id'::uuid
)

select
    access.level as access,
    (
        select
            json_build_object(
                'lessons',
                coalesce(
                    json_agg(
                        json_build_object(
                            'lessonId', lesson.id,
                            'completedAt',
                            to_char(completed.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                        )
                        -- By the time that is shown: rows written by other hands may carry microseconds.
                        order by date_trunc('milliseconds', completed.completed_at), lesson.id
                    ),
                    '[]'
                )
            )
        from completed
        inner join lessons as lesson on completed.lesson_id = lesson.id
        where
            lesson.published
            and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
    ) as answer
from access;
