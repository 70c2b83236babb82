-- Locks a learner until the transaction ends, if nobody else has locked them. A write that adds an event holds the same
-- lock, so promote.sql, which runs under this one, sees every event that was added. It does not wait: one learner who
-- is locked for long must not stop the deliveries of the others.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none for a learner who was deleted
--   locked  boolean  false: somebody else has locked the learner
-- Buffers: 20 light, 20 heavy

with taken as materialized (
    select id
    from users
    where id = :'user_id'::uuid
    for no key update skip locked
)

select users.id in (select taken.id from taken) as locked
from users
where users.id = :'user_id'::uuid;
