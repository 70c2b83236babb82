-- Takes the free path from a learner. The learner's completions stay.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if the learner did not have it
--   user_id  uuid  the learner
-- Buffers: 10 light, 10 heavy

delete from enrollments
where user_id = :'user_id'::uuid
returning user_id;
