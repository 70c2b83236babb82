-- Ends the free access of a learner, now. The learner's completions stay. A learner who never had free access gets a
-- row that has ended, so that NEW_LEARNERS=add-free does not give it. A row that has ended already stays as it is.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: nothing
-- Buffers: 10 light, 10 heavy

insert into enrollments (user_id, expires_at)
values (:'user_id'::uuid, now())
on conflict (user_id) do update
    -- least() ignores a null, which means free access without an end.
    set expires_at = least(enrollments.expires_at, excluded.expires_at);
