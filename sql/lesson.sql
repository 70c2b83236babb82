-- How a lesson, its module and everything stand for a learner: the answer to a mark and to an unmark. It runs after the
-- write, in its transaction and under lock.sql, so that it counts that write and every one answered before.
--
-- Parameters:
--   user_id    uuid  the learner
--   lesson_id  uuid  the lesson
-- Returns: one row, none if there is no such lesson
--   answer  json  lessonId, completed, completedAt, module, overall
-- Buffers: 55 light, 60 heavy

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
    json_build_object(
        'lessonId', lesson.id,
        'completed', progress.lesson_id is not null,
        'completedAt', to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'module', json_build_object(
            'moduleId', lesson.module_id,
            'percent', coalesce(100 * module.completed_count / nullif(module.total_count, 0), 0),
            'completedCount', coalesce(module.completed_count, 0),
            'totalCount', coalesce(module.total_count, 0)
        ),
        'overall', json_build_object(
            'percent', coalesce(100 * overall.completed_count / nullif(overall.total_count, 0), 0),
            'completedCount', overall.completed_count,
            'totalCount', overall.total_count
        )
    ) as answer
from lessons as lesson
cross join overall
left join counts as module on lesson.module_id = module.module_id
left join progress on lesson.id = progress.lesson_id and progress.user_id = :'user_id'::uuid
where lesson.id = :'lesson_id'::uuid;
