-- Writes the outcomes of attempts. An event whose lease has run out, and that another deliverer has claimed since,
-- stays as it is.
--
-- Parameters:
--   attempts  json  a list of objects: userId, id and claimedAt, as claim.sql returned them; delivered, a boolean;
--                   status, that of the answer, and error, both may be null; retrySeconds, the seconds until the next
--                   attempt, null for no other attempt
-- Returns: a row per event that is delivered or given up
--   user_id  uuid  the learner, for promote.sql
-- Buffers: 50 light, 50 heavy

with attempt as materialized (
    select
        "userId" as user_id,
        id,
        "claimedAt" as claimed_at,
        status,
        error,
        case when delivered then statement_timestamp() end as delivered_at,
        case when not delivered and "retrySeconds" is null then statement_timestamp() end as given_up_at,
        -- Null for an event that is delivered or given up.
        statement_timestamp() + make_interval(secs => "retrySeconds") as next_attempt_at
    from json_to_recordset(:'attempts'::json) as given (
        "userId" uuid,
        id bigint,
        "claimedAt" timestamptz,
        delivered boolean,
        status integer,
        error text,
        "retrySeconds" double precision
    )
),

recorded as (
    update events
    set
        claimed_at = null,
        attempts = events.attempts + 1,
        last_attempt_at = statement_timestamp(),
        last_status = attempt.status,
        last_error = attempt.error,
        next_attempt_at = attempt.next_attempt_at,
        delivered_at = attempt.delivered_at,
        given_up_at = attempt.given_up_at
    from attempt
    where
        events.user_id = attempt.user_id
        and events.id = attempt.id
        and events.claimed_at = attempt.claimed_at
    returning
        events.user_id,
        events.next_attempt_at
)

select user_id
from recorded
where next_attempt_at is null;
