-- Which of some learners exist.
--
-- Parameters:
--   user_ids  uuid[]  the learners
-- Returns: one row for each of them who exists
--   id  uuid  the learner
-- Buffers: 20 light, 20 heavy

select id
from users
where id = any(:'user_ids'::uuid[]);
