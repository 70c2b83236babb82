-- Whether something that Stripe said of a customer is stored. It runs after admin/erase_stripe.sql. What is still there
-- is another learner's.
--
-- Parameters:
--   customer_id  text  Stripe's id of the customer
-- Returns: one row
--   is_used  boolean  something is stored
-- Buffers: 20 light, 20 heavy

select
    exists (
        select from stripe_subscriptions
        where customer_id = :'customer_id'::text
    )
    or exists (
        select from stripe_checkouts
        where customer_id = :'customer_id'::text
    )
    or exists (
        select from stripe_customers
        where customer_id = :'customer_id'::text
    ) as is_used;
