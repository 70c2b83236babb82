-- The learner whom a payment names, for a refund or a dispute of this payment. Run it under stripe/lock.sql.
--
-- Parameters:
--   source  text  Stripe's id of the payment intent
-- Returns: one row, none if no Checkout Session of the payment has come yet, or if it paid for no course
--   claimed_user_id  uuid  the learner, who need not be in users yet
--   user_id          uuid  the same learner, null if they are not in users yet
-- Buffers: 5 light, 5 heavy

select
    claimed_user_id,
    user_id
from stripe_payments
where source = :'source'::text;
