-- Lets one transaction at a time handle the events of one customer or of one payment, or the payments that name one
-- learner. A checkout that names the learner, and a subscription that has no learner yet, may arrive at the same
-- moment: without the lock neither transaction sees the other's row. The same holds for a payment and its refund, and
-- for a payment and the row of its learner in users.
--
-- Parameters:
--   stripe_id  text  Stripe's id of the customer or of the payment, or the id of the learner
-- Returns: one row
--   stripe_id  text  as given
-- Buffers: 5 light, 5 heavy

select :'stripe_id'::text as stripe_id
from pg_advisory_xact_lock(hashtextextended(:'stripe_id'::text, 0));
