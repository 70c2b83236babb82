-- Makes the first waiting event of each of these learners due, unless it has a next_attempt_at already. It runs when
-- the event before it is delivered or given up, and under events/lock.sql or lock.sql.
--
-- Parameters:
--   user_ids  uuid[]  the learners, each once
-- Returns: nothing
-- Buffers: 40 light, 40 heavy

with first_waiting as materialized (
    select
        learner.user_id,
        (
            select min(waiting.id)
            from events as waiting
            where
                waiting.user_id = learner.user_id
                and waiting.delivered_at is null
                and waiting.given_up_at is null
        ) as id
    from unnest(:'user_ids'::uuid[]) as learner (user_id)
)

update events
set next_attempt_at = statement_timestamp()
from first_waiting
where
    events.user_id = first_waiting.user_id
    and events.id = first_waiting.id
    and events.next_attempt_at is null;
