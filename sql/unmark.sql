-- Takes a learner's completion of a lesson back, if they may take the lesson; says why not otherwise. What is not
-- marked stays so. It runs under lock.sql.
--
-- Parameters:
--   user_id    uuid  the learner
--   lesson_id  uuid  the lesson
-- Returns: one row
--   access     text     full, free, or null: not enrolled
--   known      boolean  there is such a lesson
--   available  boolean  it is published, and the learner may take it
-- Buffers: 15 light, 15 heavy

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

lesson as (
    select
        lessons.id,
        lessons.published
        and (access.level = 'full' or (access.level = 'free' and lessons.is_free)) as available
    from lessons
    cross join access
    where lessons.id = :'lesson_id'::uuid
),

unmarked as (
    delete from progress
    using lesson
    where
        progress.user_id = :'user_id'::uuid
        and progress.lesson_id = lesson.id
        and lesson.available
)

select
    access.level as access,
    lesson.id is not null as known,
    coalesce(lesson.available, false) as available
from access
left join lesson on true;
