-- Puts the writes of one learner in a row: held to the end of the transaction. What it waited for, only a later
-- statement sees, so nothing else is read here. It does not block the foreign keys' own checks.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if there is no such learner
--   id  uuid  the learner
-- Buffers: 10 light, 10 heavy

select id
from users
where id = :'user_id'::uuid
for no key update;
