-- Stores the items of subscriptions: when the period of each price and product ends. A subscription stays as it is if
-- another event about it has come since its items were read.
--
-- Parameters:
--   items  json  a list of { "stripe_subscription_id", "items" }, the items as app/stripe/events.py reads them
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

update stripe_subscriptions as stored
set items = given.items
from json_to_recordset(:'items'::json) as given (stripe_subscription_id text, items json)
where
    stored.stripe_subscription_id = given.stripe_subscription_id
    and stored.event_id = given.items ->> 'event';
