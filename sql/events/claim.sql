-- Takes events that are due, the longest due first, for one minute. Nobody else takes them in this time, and no lock
-- and no transaction stays open. If the deliverer dies, the events are taken again after the minute. Only the first
-- waiting event of a learner is ever due, so the events of one learner go out one after the other.
--
-- Parameters:
--   limit  integer  how many at most
-- Returns: a row per event
--   user_id     uuid     the learner
--   id          bigint   the event's number
--   claimed_at  text     the lease: record.sql writes only where the event still has it. The text has every digit
--   attempts    integer  how many there were before
--   webhook_id  text     the header webhook-id
--   type        text     lesson.completed, lesson.uncompleted, module.completed or course.completed
--   body        text     what is sent
-- Buffers: 20 light, 20 heavy

with due as materialized (
    select
        user_id,
        id
    from events
    where next_attempt_at <= statement_timestamp()
    order by next_attempt_at
    limit :'limit'::integer
    for update skip locked
)

update events
set
    claimed_at = statement_timestamp(),
    next_attempt_at = statement_timestamp() + interval '1 minute'
from due
where events.user_id = due.user_id and events.id = due.id
returning
    events.user_id,
    events.id,
    to_char(events.claimed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as claimed_at,
    events.attempts,
    events.webhook_id,
    events.type,
    json_build_object(
        'type', events.type,
        'timestamp', to_char(events.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'data', events.data
    )::text as body;
