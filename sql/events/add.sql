-- Adds the events of a write, in the transaction of the write and after it. It runs under lock.sql, so the events of
-- one learner get their numbers in the order of the writes. If the learner has no waiting event, the first of these is
-- due at once.
--
-- Parameters:
--   user_id  uuid  the learner
--   events   json  a list of objects with `type` and `data`, in the order in which they are sent
-- Returns: nothing
-- Buffers: 40 light, 40 heavy

insert into events (user_id, webhook_id, type, data, created_at, next_attempt_at)
select
    :'user_id'::uuid as user_id,
    'msg_' || replace(gen_random_uuid()::text, '-', '') as webhook_id,
    event.value ->> 'type' as type,
    event.value -> 'data' as data,
    -- The time of this statement: the transaction began before the wait for the lock.
    statement_timestamp() as created_at,
    case
        when
            event.number = 1
            and not exists (
                select from events
                where user_id = :'user_id'::uuid and delivered_at is null and given_up_at is null
            )
            then statement_timestamp()
    end as next_attempt_at
from json_array_elements(:'events'::json) with ordinality as event (value, number)
order by event.number;
