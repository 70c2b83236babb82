-- Keeps what Stripe says of a subscription, in place of what it said before.
--
-- Parameters:
--   stripe_subscription_id  text              the subscription
--   customer_id             text              whose it is at Stripe
--   claimed_user_id         uuid              the learner in its metadata, null if it names none
--   status                  text              as Stripe calls it
--   current_period_end      double precision  in seconds since 1970, null if there is none
--   event_id                text              of the event that says so
--   event_type              text              its type
--   event_created           double precision  when it was made, in seconds since 1970
--   object                  json              the subscription as the event has it
--   previous_attributes     json              what it had been before, as far as the event changed it
--   items                   json              when the period of each price and product ends, and the event
--   rivals                  json              what other events of the same second said, a list
-- Returns: nothing
-- Buffers: 20 light, 15 heavy

insert into stripe_subscriptions as stored (
    stripe_subscription_id,
    customer_id,
    claimed_user_id,
    status,
    current_period_end,
    event_id,
    event_type,
    event_created,
    object,
    previous_attributes,
    items,
    rivals
)
values (
    :'stripe_subscription_id'::text,
    :'customer_id'::text,
    :'claimed_user_id'::uuid,
    :'status'::text,
    to_timestamp(:'current_period_end'::double precision),
    :'event_id'::text,
    :'event_type'::text,
    to_timestamp(:'event_created'::double precision),
    :'object'::json,
    :'previous_attributes'::json,
    :'items'::json,
    :'rivals'::json
)
on conflict (stripe_subscription_id) do update
    set
        customer_id = excluded.customer_id,
        claimed_user_id = excluded.claimed_user_id,
        status = excluded.status,
        current_period_end = excluded.current_period_end,
        event_id = excluded.event_id,
        event_type = excluded.event_type,
        event_created = excluded.event_created,
        object = excluded.object,
        previous_attributes = excluded.previous_attributes,
        items = excluded.items,
        rivals = excluded.rivals,
        updated_at = excluded.updated_at;
