-- The lesson to go on with: the first available one after the most recently completed, in catalog order, else from
-- the start again.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   access  text  full, free, or null: not enrolled
--   answer  json  lessonId, moduleId; both null when nothing is left
-- Buffers: 70 light, 85 heavy

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

latest as (
    select
        module.position as module_position,
        module.id as module_id,
        lesson.position,
        lesson.id
    from progress
    inner join lessons as lesson on progress.lesson_id = lesson.id
    inner join modules as module on lesson.module_id = module.id
    cross join access
    where
        progress.user_id = :'user_id'::uuid
        and lesson.published
        and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
    order by
        -- By the time that is shown: rows written by other hands may carry microseconds.
        date_trunc('milliseconds', progress.completed_at) desc,
        module.position desc, module.id desc, lesson.position desc, lesson.id desc
    limit 1
),

next as (
    select
        lesson.id,
        lesson.module_id
    from lessons as lesson
    inner join modules as module on lesson.module_id = module.id
    cross join access
    left join latest on true
    where
        lesson.published
        and (access.level = 'full' or (access.level = 'free' and lesson.is_free))
        and lesson.id not in (select lesson_id from completed)
        and lesson.id not in (select lesson_id from locked)
    order by
        -- True before false; null for all alike while nothing is completed.
        (module.position, module.id, lesson.position, lesson.id)
        > (latest.module_position, latest.module_id, latest.position, latest.id) desc,
        module.position asc, module.id asc, lesson.position asc, lesson.id asc
    limit 1
)

select
    access.level as access,
    json_build_object('lessonId', next.id, 'moduleId', next.module_id) as answer
from access
left join next on true;
