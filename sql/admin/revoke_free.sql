-- Takes the free path from a learner. Their completions stay.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if they did not have it
--   user_id  uuid  the learner
-- Buffers: 10 light, 10 heavy

delete from enrollments
where user_id = :'user_id'::uuid
returning user_id;
