-- The customers of Stripe's with a subscription that belongs to no known learner.
--
-- Parameters: none
-- Returns: a row per customer
--   customer_id  text  Stripe's id of the customer
-- Buffers: 10 light, 10 heavy

select distinct customer_id
from stripe_subscriptions
where user_id is null
order by customer_id;
