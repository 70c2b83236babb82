-- Subscriptions whose stored items are not those of the stored event, because another version of the service stored the
-- event. At most a thousand of them.
--
-- Parameters:
--   user_ids  uuid[]  the learners who own the subscriptions; null: everybody
-- Returns: a row per subscription
--   stripe_subscription_id  text  the subscription
--   event_id                text  the last event about it
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
