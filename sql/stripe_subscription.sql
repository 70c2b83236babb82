-- What Stripe said last of a subscription. It runs under stripe_lock.sql.
--
-- Parameters:
--   stripe_subscription_id  text  the subscription
-- Returns: one row, none if Stripe has not said anything yet
--   stripe_subscription_id  text              as given
--   customer_id             text              whose it is at Stripe
--   claimed_user_id         text              the learner in its metadata, null if it names none
--   status                  text              as Stripe calls it
--   current_period_end      double precision  in seconds since 1970, null if there is none
--   event_id                text              of the event that said so
--   event_type              text              its type
--   event_created           double precision  when it was made, in seconds since 1970
--   object                  text              the subscription as the event had it, JSON
--   previous_attributes     text              what it had been before, as far as the event changed it, JSON
--   rivals                  text              what other events of the same second said, a JSON list
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
