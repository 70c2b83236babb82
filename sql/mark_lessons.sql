-- Marks lessons as completed by a learner, each at its time. A second mark keeps completed_at. It runs under lock.sql
-- and after may_mark_lessons.sql, which says which lessons the learner may mark.
--
-- Parameters:
--   user_id      uuid           the learner
--   to_mark      uuid[]         the lessons
--   to_mark_ats  timestamptz[]  when each of them was completed
-- Returns: nothing
-- Buffers: 20 light, 20 heavy

insert into progress (user_id, lesson_id, completed_at, updated_at)
select
    :'user_id'::uuid as user_id,
    lesson_id,
    completed_at,
    statement_timestamp() as updated_at
from unnest(:'to_mark'::uuid[], :'to_mark_ats'::timestamptz[]) as marked (lesson_id, completed_at)
on conflict (user_id, lesson_id) do update set updated_at = excluded.updated_at;
