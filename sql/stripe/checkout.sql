-- Stores which learner a Checkout Session names for the subscription that it made. Stripe may send a session twice: the
-- first row stays.
--
-- Parameters:
--   checkout_session_id     text              the Checkout Session
--   customer_id             text              Stripe's id of the customer
--   stripe_subscription_id  text              the subscription that the session made
--   claimed_user_id         uuid              the learner, who need not be in users yet
--   session_created         double precision  when the session was made, in seconds since 1970
-- Returns: nothing
-- Buffers: 20 light, 20 heavy

insert into stripe_checkouts (
    checkout_session_id,
    customer_id,
    stripe_subscription_id,
    claimed_user_id,
    session_created
)
values (
    :'checkout_session_id'::text,
    :'customer_id'::text,
    :'stripe_subscription_id'::text,
    :'claimed_user_id'::uuid,
    to_timestamp(:'session_created'::double precision)
)
on conflict (checkout_session_id) do nothing;
