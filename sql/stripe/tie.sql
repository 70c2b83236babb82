-- Ties a customer of Stripe's to the learner whom the customer's first Checkout Session of a subscription names.
-- Sessions may arrive in any order. A row that an earlier version of the service stored names no session. It counts as
-- the first session, and stays.
--
-- Parameters:
--   customer_id          text              Stripe's id of the customer
--   claimed_user_id      uuid              the learner, who need not be in users yet
--   session_created      double precision  when the session was made, in seconds since 1970
--   checkout_session_id  text              the Checkout Session that names the learner
-- Returns: nothing
-- Buffers: 15 light, 15 heavy

insert into stripe_customers as tied (
    customer_id,
    claimed_user_id,
    event_created,
    checkout_session_id,
    session_created
)
values (
    :'customer_id'::text,
    :'claimed_user_id'::uuid,
    to_timestamp(:'session_created'::double precision),
    :'checkout_session_id'::text,
    to_timestamp(:'session_created'::double precision)
)
on conflict (customer_id) do update
    set
        claimed_user_id = excluded.claimed_user_id,
        -- stripe/attach.sql sets user_id, if the learner is in users.
        user_id = null,
        event_created = excluded.event_created,
        checkout_session_id = excluded.checkout_session_id,
        session_created = excluded.session_created
    where
    (excluded.session_created, excluded.checkout_session_id) < (tied.session_created, tied.checkout_session_id)
    -- An earlier version may run at the same time. It lets a later session change the learner and event_created, and
    -- does not know the columns of the session. The two times then differ, and any session may correct the row.
    or tied.event_created != tied.session_created;
