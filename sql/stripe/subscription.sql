-- The latest state of a subscription. Run it under stripe/lock.sql.
--
-- Parameters:
--   stripe_subscription_id  text  the subscription
-- Returns: one row, none if no event of the subscription has come yet
--   stripe_subscription_id  text              as given
--   customer_id             text              Stripe's id of the customer
--   claimed_user_id         text              the learner whom its metadata names, null if it names none
--   status                  text              as Stripe calls it
--   current_period_end      double precision  in seconds since 1970, null if there is none
--   event_id                text              the event that has this state
--   event_type              text              the type of the event
--   event_created           double precision  when Stripe made the event, in seconds since 1970
--   object                  text              the subscription in the event, JSON
--   previous_attributes     text              the values before the event of what the event changed, JSON
--   rivals                  text              the states in other events of the same second, a JSON list
-- Buffers: 10 light, 10 heavy

select
    stripe_subscription_id,
    customer_id,
    claimed_user_id::text as claimed_user_id,
    status,
    extract(epoch from current_period_end)::double precision as current_period_end,
    event_id,
    event_type,
    extract(epoch from event_created)::double precision as event_created,
    object::text as object,
    previous_attributes::text as previous_attributes,
    rivals::text as rivals
from stripe_subscriptions
where stripe_subscription_id = :'stripe_subscription_id'::text;
