-- Marks a lesson as completed by a learner. A second mark keeps completed_at. It runs under lock.sql and after
-- may_mark.sql, which says whether the learner may.
--
-- Parameters:
--   user_id       uuid         the learner
--   lesson_id     uuid         the lesson
--   completed_at  timestamptz  when it was completed; null or a time in the future means now
-- Returns: nothing
-- Buffers: 20 light, 20 heavy

insert into progress (user_id, lesson_id, completed_at, updated_at)
values (
    :'user_id'::uuid,
    :'lesson_id'::uuid,
    -- The time of this statement: the transaction began before the wait for the lock. least() ignores a null.
    date_trunc('milliseconds', least(:'completed_at'::timestamptz, statement_timestamp())),
    statement_timestamp()
)
on conflict (user_id, lesson_id) do update set updated_at = excluded.updated_at;
