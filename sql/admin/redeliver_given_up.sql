-- Finds events that were given up, for `make redeliver`: the first thousand.
--
-- Parameters: none
-- Returns: a row per event
--   user_id  text    the learner
--   id       bigint  the event's number
-- Buffers: 20 light, 20 heavy

select
    user_id::text as user_id,
    id
from events
where given_up_at is not null
order by given_up_at
limit 1000;
