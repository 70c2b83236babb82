-- Gives a learner free access, or changes when it ends.
--
-- Parameters:
--   user_id     uuid         the learner
--   expires_at  timestamptz  when it ends; 'infinity', or null from the service: never
-- Returns: nothing
-- Buffers: 10 light, 10 heavy

insert into enrollments (user_id, expires_at)
values (:'user_id'::uuid, :'expires_at'::timestamptz)
on conflict (user_id) do update set expires_at = excluded.expires_at;
