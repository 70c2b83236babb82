-- Stores the latest state of a subscription, in place of the state before it.
--
-- Parameters:
--   stripe_subscription_id  text              the subscription
--   customer_id             text              Stripe's id of the customer
--   claimed_user_id         uuid              the learner whom its metadata names, null if it names none
--   status                  text              as Stripe calls it
--   current_period_end      double precision  in seconds since 1970, null if there is none
--   event_id                text              the event that has this state
--   event_type              text              the type of the event
--   event_created           double precision  when Stripe made the event, in seconds since 1970
--   object                  json              the subscription in the event
--   previous_attributes     json              the values before the event of what the event changed
--   items                   json              when the period of each price and product ends, and the courses
--   rivals                  json              the states in other events of the same second, a list
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
