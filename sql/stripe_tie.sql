-- Ties a customer of Stripe's to the learner that a checkout named. Of two checkouts the later one holds.
--
-- Parameters:
--   customer_id      text              Stripe's id of the customer
--   claimed_user_id  uuid              the learner, who need not be in users yet
--   event_created    double precision  when the event was made that says so, in seconds since 1970
-- Returns: nothing
-- Buffers: 15 light, 15 heavy

insert into stripe_customers as tied (customer_id, claimed_user_id, event_created)
values (:'customer_id'::text, :'claimed_user_id'::uuid, to_timestamp(:'event_created'::double precision))
on conflict (customer_id) do update
    set
        claimed_user_id = excluded.claimed_user_id,
        event_created = excluded.event_created
    -- The ids decide between two of one second, so that it does not matter which comes first.
    where (tied.event_created, tied.claimed_user_id) < (excluded.event_created, excluded.claimed_user_id);
