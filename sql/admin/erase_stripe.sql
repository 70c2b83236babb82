-- Deletes what Stripe said of a learner, and when the learner last wrote. Run it after admin/erase.sql.
--
-- A refund names its payment alone. So a refund of a payment that paid for no course is nobody's here, and stays.
--
-- Parameters:
--   user_id         uuid  the learner
--   quoted_site_id  text  the id of the learner at the site, as a JSON string with its quotation marks
-- Returns: a row per table
--   table_name  text    the table
--   row_count   bigint  how many rows it had of the learner, rows of others that named the learner included
-- Buffers: 120 light, 400 heavy

-- The subscriptions that something ties to the learner are looked up by keys. Of these, the learner owns those that
-- stripe/attach.sql gives them, or will give them as soon as they are in users.
with own_subscriptions as materialized (
    select stripe_subscription_id
    from stripe_subscriptions as subscription
    where
        stripe_subscription_id = any(array(
            select stripe_subscription_id
            from stripe_subscriptions
            where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            union all
            select stripe_subscription_id
            from stripe_checkouts
            where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            union all
            select paid.stripe_subscription_id
            from stripe_customers as payer
            inner join stripe_subscriptions as paid on payer.customer_id = paid.customer_id
            where
                payer.user_id = :'user_id'::uuid
                or (payer.user_id is null and payer.claimed_user_id = :'user_id'::uuid)
        ))
        and coalesce(
            user_id,
            claimed_user_id,
            (
                select checkout.claimed_user_id
                from stripe_checkouts as checkout
                where checkout.stripe_subscription_id = subscription.stripe_subscription_id
                order by checkout.session_created asc, checkout.checkout_session_id asc
                limit 1
            ),
            (
                select customer.claimed_user_id
                from stripe_customers as customer
                where customer.customer_id = subscription.customer_id
            )
        ) = :'user_id'::uuid
),

removed_rate_limits as (
    delete from rate_limits
    where strpos(key, :'user_id'::uuid::text) > 0
    returning key
),

removed_stripe_subscriptions as (
    delete from stripe_subscriptions
    where stripe_subscription_id = any(array(select stripe_subscription_id from own_subscriptions))
    returning stripe_subscription_id
),

-- A subscription that is another learner's now may say that an earlier event named this learner, by the UUID or by the
-- id at the site. Both columns only decide which of two events of one second came later.
cleared_stripe_subscriptions as (
    update stripe_subscriptions
    set
        previous_attributes = '{}',
        rivals = '[]'
    where
        (
            strpos(lower(previous_attributes::text || rivals::text), :'user_id'::uuid::text) > 0
            or strpos(previous_attributes::text || rivals::text, :'quoted_site_id'::text) > 0
        )
        and stripe_subscription_id not in (select stripe_subscription_id from own_subscriptions)
    returning stripe_subscription_id
),

removed_stripe_checkouts as (
    delete from stripe_checkouts
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    returning checkout_session_id
),

removed_stripe_customers as (
    delete from stripe_customers
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    returning customer_id
),

removed_stripe_reversals as (
    delete from stripe_reversals
    where
        payment_intent_id in (
            select source
            from stripe_payments
            where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
        )
    returning payment_intent_id
),

removed_stripe_payments as (
    delete from stripe_payments
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    returning source
)

select
    'rate_limits' as table_name,
    count(*) as row_count
from removed_rate_limits
union all
select
    'stripe_subscriptions' as table_name,
    count(*) as row_count
from (
    select stripe_subscription_id
    from removed_stripe_subscriptions
    union all
    select stripe_subscription_id
    from cleared_stripe_subscriptions
) as changed_stripe_subscriptions
union all
select
    'stripe_checkouts' as table_name,
    count(*) as row_count
from removed_stripe_checkouts
union all
select
    'stripe_customers' as table_name,
    count(*) as row_count
from removed_stripe_customers
union all
select
    'stripe_reversals' as table_name,
    count(*) as row_count
from removed_stripe_reversals
union all
select
    'stripe_payments' as table_name,
    count(*) as row_count
from removed_stripe_payments;
