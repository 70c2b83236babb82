-- Lets events wait again, with all attempts of the schedule. Other events of their learners lose their next_attempt_at,
-- so that promote.sql, which runs next, begins with the learner's first event. An event that a deliverer is sending at
-- this moment stays as it is.
--
-- Parameters:
--   chosen  json  a list of objects: user_id and id
-- Returns: a row per event that waits again
--   webhook_id  text  the header webhook-id
-- Buffers: 60 light, 60 heavy

with chosen as materialized (
    select
        user_id,
        id
    from json_to_recordset(:'chosen'::json) as given (user_id uuid, id bigint)
),

changed as (
    update events
    set
        next_attempt_at = null,
        claimed_at = null,
        delivered_at = null,
        given_up_at = null,
        attempts = case when events.id in (select chosen.id from chosen) then 0 else events.attempts end
    where
        events.user_id = any(array(select chosen.user_id from chosen))
        and (events.id in (select chosen.id from chosen) or events.next_attempt_at is not null)
        and (events.claimed_at is null or events.next_attempt_at <= statement_timestamp())
    returning
        events.id,
        events.webhook_id
)

select webhook_id
from changed
where id in (select chosen.id from chosen);
