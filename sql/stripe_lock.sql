-- Puts all that Stripe says of one customer in a row: held to the end of the transaction. A checkout that names the
-- learner and a subscription that waits for that name may come at the same moment; neither would see the other.
--
-- Parameters:
--   customer_id  text  Stripe's id of the customer
-- Returns: one row
--   customer_id  text  as given
-- Buffers: 5 light, 5 heavy

select :'customer_id'::text as customer_id
from pg_advisory_xact_lock(hashtextextended(:'customer_id'::text, 0));
