-- Locks the next learners for make complete, as lock.sql locks one: a write of a learner waits, and the statement after
-- this one sees what earlier writes have stored.
--
-- Parameters:
--   after  uuid     the last learner of the batch before
--   limit  integer  how many learners at most
-- Returns: one row for each learner, none at the end
--   id  uuid  the learner, in ascending order
-- Buffers: 700 light, 700 heavy

select id
from users
where id > :'after'::uuid
order by id
limit :'limit'::integer
for no key update;
