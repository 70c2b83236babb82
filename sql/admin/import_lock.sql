-- Locks the learners of an imported file until the transaction ends, as lock.sql locks one: a write of such a learner
-- waits, and the next statement sees what earlier writes have stored. The order of the ids is that of make complete, so
-- the two never wait for each other.
--
-- Parameters: none
-- Returns: one row
--   user_ids  text  the learners, as the text of an array

with learners as (
    select id
    from users
    where id in (select user_id from imported)
    order by id
    for no key update
)

select coalesce(array_agg(id), '{}')::text as user_ids
from learners;
