-- What stripe/lock.sql must lock, in this order, before a learner is erased. Without these locks there may be a
-- deadlock: an event of Stripe's has changed a row and waits for the learner's row, while the erasing has locked the
-- learner's row and waits for the other. An event locks its customer or its payment first, and the learner last.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per lock
--   stripe_id    text     Stripe's id of the customer or of the payment; last, the id of the learner
--   is_customer  boolean  it is a customer
-- Buffers: 50 light, 50 heavy

select
    stripe_id,
    place = 1 as is_customer
from (
    select
        1 as place,
        customer_id as stripe_id
    from stripe_customers
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    union
    select
        1 as place,
        customer_id as stripe_id
    from stripe_checkouts
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    union
    select
        1 as place,
        customer_id as stripe_id
    from stripe_subscriptions
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    union
    select
        2 as place,
        source as stripe_id
    from stripe_payments
    where user_id = :'user_id'::uuid or claimed_user_id = :'user_id'::uuid
    union
    select
        3 as place,
        :'user_id'::uuid::text as stripe_id
) as locks
order by place, stripe_id;
