-- Sets the owner of each subscription of one customer, if that learner is in users. The owner is the learner whom the
-- metadata of the subscription names; else the learner whom the Checkout Session of the subscription names; else the
-- learner of the customer. The rows that it returns say whose access may have changed.
--
-- Parameters:
--   customer_id  text  Stripe's id of the customer
-- Returns: a row per subscription, by id
--   stripe_subscription_id  text  the subscription
--   before                  uuid  the owner before, null if there was none
--   after                   uuid  the owner now, null if there is none
--   named                   uuid  the learner who owns it as soon as they are in users, null if nothing names one
-- Buffers: 5 light, 5 heavy

-- Which of the learners that something of the customer names are in users. An array keeps the question small where
-- users is distributed: a join would fetch the ids of all learners.
with known as materialized (
    select id
    from users
    where id = any(array(
        select claimed_user_id
        from stripe_subscriptions
        where customer_id = :'customer_id'::text
        union all
        select claimed_user_id
        from stripe_checkouts
        where customer_id = :'customer_id'::text
        union all
        select stripe_checkouts.claimed_user_id
        from stripe_subscriptions
        inner join stripe_checkouts
            on stripe_subscriptions.stripe_subscription_id = stripe_checkouts.stripe_subscription_id
        where stripe_subscriptions.customer_id = :'customer_id'::text
        union all
        select claimed_user_id
        from stripe_customers
        where customer_id = :'customer_id'::text
    ))
),

owned as (
    select
        subscription.stripe_subscription_id,
        subscription.user_id as before,
        learner.id as after,
        coalesce(subscription.claimed_user_id, checkout.claimed_user_id, customer.claimed_user_id) as named
    from stripe_subscriptions as subscription
    left join stripe_customers as customer on subscription.customer_id = customer.customer_id
    left join lateral (
        select claimed_user_id
        from stripe_checkouts
        where stripe_checkouts.stripe_subscription_id = subscription.stripe_subscription_id
        -- Stripe makes one session for a subscription. If there are two, the order of their arrival must not matter.
        order by session_created asc, checkout_session_id asc
        limit 1
    ) as checkout on true
    left join known as learner
        on coalesce(
            subscription.claimed_user_id, checkout.claimed_user_id, customer.claimed_user_id
        ) = learner.id
    where subscription.customer_id = :'customer_id'::text
),

attached as (
    update stripe_subscriptions
    set user_id = owned.after
    from owned
    where
        stripe_subscriptions.stripe_subscription_id = owned.stripe_subscription_id
        and stripe_subscriptions.user_id is distinct from owned.after
),

tied as (
    update stripe_customers
    set user_id = claimed_user_id
    where
        customer_id = :'customer_id'::text
        and claimed_user_id in (select id from known)
        and user_id is distinct from claimed_user_id
),

named as (
    update stripe_checkouts
    set user_id = learner.id
    from known as learner
    where
        stripe_checkouts.customer_id = :'customer_id'::text
        and stripe_checkouts.claimed_user_id = learner.id
        and stripe_checkouts.user_id is distinct from learner.id
)

select
    stripe_subscription_id,
    before,
    after,
    named
from owned
order by stripe_subscription_id;
