-- Deletes rows of subscriptions that copy a subscription for a learner who does not own it. It looks at every
-- subscription of one customer, and at every subscription that one of these learners owns.
--
-- Parameters:
--   customer_id  text    Stripe's id of the customer
--   user_ids     uuid[]  the learners
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

with owned as materialized (
    select
        stripe_subscription_id,
        user_id
    from stripe_subscriptions
    where customer_id = :'customer_id'::text or user_id = any(:'user_ids'::uuid[])
)

delete from subscriptions
using owned
where
    subscriptions.stripe_subscription_id = owned.stripe_subscription_id
    and subscriptions.user_id is distinct from owned.user_id;
