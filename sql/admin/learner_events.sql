-- How many events of a learner wait, and how many were given up. `make events` lists them.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   waiting   bigint  events that are not delivered and not given up
--   since     text    when the oldest of them was written, in UTC; null if there is none
--   given_up  bigint  events that were given up
-- Buffers: 10 light, 10 heavy

select
    count(*) filter (where delivered_at is null and given_up_at is null) as waiting,
    to_char(
        min(created_at) filter (where delivered_at is null and given_up_at is null) at time zone 'UTC',
        'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
    ) as since,
    count(*) filter (where given_up_at is not null) as given_up
from events
where user_id = :'user_id'::uuid;
