-- Subscriptions of which another version stored an event and did not read the items, a thousand at the most.
--
-- Parameters:
--   user_ids  uuid[]  of these learners; null: of all
-- Returns: a row per subscription
--   stripe_subscription_id  text  the subscription
--   event_id                text  the event that said something of it last
--   object                  text  the subscription as the event had it, JSON
-- Buffers: 5 light, 5 heavy

select
    stripe_subscription_id,
    event_id,
    object::text as object
from stripe_subscriptions
where
    (:'user_ids'::uuid[] is null or user_id = any(:'user_ids'::uuid[]))
    and (items ->> 'event') is distinct from event_id
order by stripe_subscription_id
limit 1000;
