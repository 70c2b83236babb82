-- Locks the learner's row until the transaction ends, so that concurrent writes of one learner run one after another. A
-- statement that has waited for a lock still reads the data from before the wait, so this one reads nothing else, and a
-- later statement counts. The lock does not block the checks of foreign keys.
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
