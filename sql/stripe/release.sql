-- Deletes the rows of subscriptions that were copied from a subscription of this customer for another learner than its
-- owner now.
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
