-- The next learners for make complete, which then locks each with lock.sql.
--
-- Parameters:
--   after  uuid     the last learner of the batch before
--   limit  integer  how many learners at most
-- Returns: one row for each learner, none at the end
--   id  uuid  the learner, in ascending order
-- Buffers: 20 light, 20 heavy

select id
from users
where id > :'after'::uuid
order by id
limit :'limit'::integer;
