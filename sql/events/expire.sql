-- Removes events that were delivered over 30 days ago, the oldest first. It removes a thousand at most, so that it
-- holds its locks for a short time.
--
-- Parameters: none
-- Returns: a row per event that was removed
--   id  bigint  the event's number
-- Buffers: 20 light, 20 heavy

delete from events
using (
    select
        user_id,
        id
    from events
    where delivered_at < statement_timestamp() - interval '30 days'
    order by delivered_at
    limit 1000
    for update skip locked
) as expired
where events.user_id = expired.user_id and events.id = expired.id
returning events.id;
