-- Locks learners until the transaction ends, in the order of their ids, so that two of these never wait for each other.
--
-- Parameters:
--   user_ids  uuid[]  the learners
-- Returns: a row per learner
--   id  uuid  the learner
-- Buffers: 20 light, 20 heavy

select id
from users
where id = any(:'user_ids'::uuid[])
order by id
for no key update;
