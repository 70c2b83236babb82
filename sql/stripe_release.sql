-- Takes a customer's subscriptions from whoever has one in subscriptions that is not theirs any more.
--
-- Parameters:
--   customer_id  text  Stripe's id of the customer
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

delete from subscriptions
using stripe_subscriptions as owned
where
    owned.customer_id = :'customer_id'::text
    and subscriptions.stripe_subscription_id = owned.stripe_subscription_id
    and subscriptions.user_id is distinct from owned.user_id;
