-- Deletes rows of subscriptions that copy a subscription for a learner who does not own it. It looks at every
-- subscription of one customer, and at every subscription that one of these learners owns.
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
