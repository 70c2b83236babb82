-- A join of users with tables of the coordinator. Citus fetched the ids of all learners, twice.

with owned as (
    select
        subscription.stripe_subscription_id,
        subscription.user_id as before,
        learner.id as after
    from stripe_subscriptions as subscription
    left join stripe_customers as customer on subscription.customer_id = customer.customer_id
    left join users as learner
        on coalesce(subscription.claimed_user_id, customer.claimed_user_id) = learner.id
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
    set user_id = learner.id
    from users as learner
    where
        stripe_customers.customer_id = :'customer_id'::text
        and stripe_customers.claimed_user_id = learner.id
        and stripe_customers.user_id is distinct from learner.id
)

select
    stripe_subscription_id,
    before,
    after
from owned
order by stripe_subscription_id;
