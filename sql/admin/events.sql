-- Events that wait or were given up, a thousand at most: those that were given up first, then those that are due first,
-- then those that wait for an earlier event of their learner.
--
-- Parameters: none
-- Returns: a row per event
--   webhook_id       text     the header webhook-id
--   user_id          uuid     the learner
--   type             text     such as lesson.completed
--   created_at       text     when it was written, in UTC
--   given_up_at      text     null while it waits
--   next_attempt_at  text     null if it was given up, or waits for an earlier event
--   attempts         integer  how many there were
--   last_status      integer  the status of the last answer; null if there was none
--   last_error       text     why there was no answer; null if there was one
-- Buffers: 20 light, 20 heavy

(
    select
        webhook_id,
        user_id,
        type,
        to_char(created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as created_at,
        to_char(given_up_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as given_up_at,
        to_char(next_attempt_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as next_attempt_at,
        attempts,
        last_status,
        last_error
    from events
    where given_up_at is not null
    -- The column, for which there is an index. Without `events.` it would be the text that is selected above.
    order by events.given_up_at
    limit 1000
)
union all
(
    select
        webhook_id,
        user_id,
        type,
        to_char(created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as created_at,
        to_char(given_up_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as given_up_at,
        to_char(next_attempt_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as next_attempt_at,
        attempts,
        last_status,
        last_error
    from events
    where next_attempt_at is not null
    order by events.next_attempt_at
    limit 1000
)
union all
(
    select
        webhook_id,
        user_id,
        type,
        to_char(created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as created_at,
        to_char(given_up_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as given_up_at,
        to_char(next_attempt_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as next_attempt_at,
        attempts,
        last_status,
        last_error
    from events
    where delivered_at is null and given_up_at is null and next_attempt_at is null
    order by user_id, id
    limit 1000
)
limit 1000;
