-- Takes the subscriptions of a customer, and those of learners, from whoever has one in subscriptions that is not
-- theirs.
--
-- Parameters:
--   customer_id  text    Stripe's id of the customer
--   user_ids     uuid[]  the learners
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

delete from subscriptions
using stripe_subscriptions as owned
where
    (owned.customer_id = :'customer_id'::text or owned.user_id = any(:'user_ids'::uuid[]))
    and subscriptions.stripe_subscription_id = owned.stripe_subscription_id
    and subscriptions.user_id is distinct from owned.user_id;
