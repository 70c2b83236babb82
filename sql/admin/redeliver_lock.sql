-- Locks learners until the transaction ends. All runs of `make redeliver` lock learners in the order of their ids, so
-- two runs never wait for each other.
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
