-- Events that wait or were given up, a thousand at most: those that were given up first, then those that are due first,
-- then those that wait for an earlier event of their learner.
--
-- Parameters: none
-- Returns: a row per event
--   webhook_id       text                      the header webhook-id
--   user_id          uuid                      the learner
--   type             text                      such as lesson.completed
--   created_at       timestamp with time zone  when it was written
--   given_up_at      timestamp with time zone  null while it waits
--   next_attempt_at  timestamp with time zone  null if it was given up, or waits for an earlier event
--   attempts         integer                   how many there were
--   last_status      integer                   the status of the last answer; null if there was none
--   last_error       text                      why there was no answer; null if there was one
-- Buffers: 20 light, 20 heavy

(
    select
        webhook_id,
        user_id,
        type,
        created_at,
        given_up_at,
        next_attempt_at,
        attempts,
        last_status,
        last_error
    from events
    where given_up_at is not null
    order by given_up_at
    limit 1000
)
union all
(
    select
        webhook_id,
        user_id,
        type,
        created_at,
        given_up_at,
        next_attempt_at,
        attempts,
        last_status,
        last_error
    from events
    where next_attempt_at is not null
    order by next_attempt_at
    limit 1000
)
union all
(
    select
        webhook_id,
        user_id,
        type,
        created_at,
        given_up_at,
        next_attempt_at,
        attempts,
        last_status,
        last_error
    from events
    where delivered_at is null and given_up_at is null and next_attempt_at is null
    order by user_id, id
    limit 1000
)
limit 1000;
