-- The customers of Stripe with a subscription, or a Checkout Session, that names a learner and has no owner yet. When
-- the learner is in users, stripe/attach.sql sets the owner.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per customer, by id
--   customer_id  text  Stripe's id of the customer
-- Buffers: 10 light, 10 heavy

select customer_id
from stripe_subscriptions
where user_id is null and claimed_user_id = :'user_id'::uuid
union
select customer_id
from stripe_checkouts
where user_id is null and claimed_user_id = :'user_id'::uuid
union
select customer_id
from stripe_customers
where user_id is null and claimed_user_id = :'user_id'::uuid
order by customer_id;
