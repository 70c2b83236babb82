-- Lets one transaction at a time handle the events of one customer. A checkout that names the learner, and a
-- subscription that has no learner yet, may arrive at the same moment: without the lock neither transaction sees the
-- other's row.
--
-- Parameters:
--   customer_id  text  Stripe's id of the customer
-- Returns: one row
--   customer_id  text  as given
-- Buffers: 5 light, 5 heavy

select :'customer_id'::text as customer_id
from pg_advisory_xact_lock(hashtextextended(:'customer_id'::text, 0));
