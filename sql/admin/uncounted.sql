-- The lessons that a learner has completed and that do not count, because the learner may not take them now. They count
-- again when they are published, or when the learner has access again.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per lesson, the latest completion first
--   lesson_id     text
--   title         text
--   completed_at  text     in UTC
--   published     boolean  false: nobody may take it now; true: the learner has no access to it
-- Buffers: 60 light, 70 heavy

with accessible as materialized (
    select lesson_id
    from accessible_lessons
    where user_id = :'user_id'::uuid
)

select
    lesson.id::text as lesson_id,
    lesson.title,
    to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as completed_at,
    lesson.published
from progress
inner join lessons as lesson on progress.lesson_id = lesson.id
where
    progress.user_id = :'user_id'::uuid
    and progress.lesson_id not in (select lesson_id from accessible)
order by
    progress.completed_at desc,
    lesson.id asc;
