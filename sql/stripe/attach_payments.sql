-- Sets the owner of each payment that names one of these learners, if that learner is in users. The rows that it
-- returns say whose courses may have changed.
--
-- Parameters:
--   user_ids  uuid[]  the learners
-- Returns: a row per payment, by its source
--   source  text  the payment
--   before  uuid  the owner before, null if there was none
--   after   uuid  the owner now, null if there is none
-- Buffers: 10 light, 10 heavy

-- An array keeps the question small where users is distributed: a join would fetch the ids of all learners.
with known as materialized (
    select id
    from users
    where id = any(:'user_ids'::uuid[])
),

owned as (
    select
        payment.source,
        payment.user_id as before,
        learner.id as after
    from stripe_payments as payment
    left join known as learner on payment.claimed_user_id = learner.id
    where payment.claimed_user_id = any(:'user_ids'::uuid[])
),

attached as (
    update stripe_payments
    set user_id = owned.after
    from owned
    where
        stripe_payments.source = owned.source
        and stripe_payments.user_id is distinct from owned.after
)

select
    source,
    before,
    after
from owned
order by source;
