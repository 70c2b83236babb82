-- Claims events that are due, those that have been due longest first. A claim is a lease of one minute: nobody else can
-- claim the event in this time, and no lock and no transaction stays open. If the deliverer dies, the event can be
-- claimed again after the minute. Only the first waiting event of a learner is ever due, so the events of one learner
-- are sent one after the other.
--
-- Parameters:
--   limit  integer  how many at most
-- Returns: a row per event
--   user_id     uuid     the learner
--   id          bigint   the event's number
--   claimed_at  text     the time of the claim, to the microsecond: record.sql writes only if the event still has it
--   attempts    integer  how many attempts there were before
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
),

claimed as (
    update events
    set
        claimed_at = statement_timestamp(),
        next_attempt_at = statement_timestamp() + interval '1 minute'
    from due
    where events.user_id = due.user_id and events.id = due.id
    returning
        events.user_id,
        events.id,
        events.claimed_at,
        events.attempts,
        events.webhook_id,
        events.type,
        events.created_at,
        events.data
)

select
    user_id,
    id,
    to_char(claimed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as claimed_at,
    attempts,
    webhook_id,
    type,
    json_build_object(
        'type', type,
        'timestamp', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'data', data
    )::text as body
from claimed;
