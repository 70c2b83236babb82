-- Deletes a learner's row in users. Run it after admin/erase.sql, and only where the table is the service's own.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if there is no such learner
--   id  uuid  the learner
-- Buffers: 10 light, 10 heavy

delete from users
where id = :'user_id'::uuid
returning id;
