-- What Stripe says of every subscription of a learner, for make access. This includes a subscription that names the
-- learner and has no owner yet.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per subscription, the one with the latest event first
--   stripe_subscription_id  text     the subscription
--   status                  text     as Stripe calls it
--   current_period_end      text     when its period ends, in UTC; null if it has none
--   said_at                 text     when Stripe said so, in UTC
--   attached                boolean  the learner owns it; false: it has no owner yet
--   prices                  text     the prices and products of its items, by Stripe's ids; null if it has none
-- Buffers: 10 light, 10 heavy

select
    stripe_subscription_id,
    status,
    to_char(current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as current_period_end,
    to_char(event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as said_at,
    user_id is not null as attached,
    (
        select string_agg(id, ', ' order by id)
        from json_object_keys(items -> 'ends') as item (id)
    ) as prices
from stripe_subscriptions
where
    user_id = :'user_id'::uuid
    or (
        user_id is null
        and (
            claimed_user_id = :'user_id'::uuid
            or stripe_subscription_id in (
                select stripe_subscription_id
                from stripe_checkouts
                where claimed_user_id = :'user_id'::uuid
            )
            or customer_id in (
                select customer_id
                from stripe_customers
                where claimed_user_id = :'user_id'::uuid
            )
        )
    )
order by
    event_created desc,
    stripe_subscription_id asc;
