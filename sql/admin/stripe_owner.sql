-- What is known of a subscription at Stripe, for the report of make stripe-sync.
--
-- Parameters:
--   stripe_subscription_id  text  the subscription
-- Returns: one row, none if nothing is
--   status              text                      as Stripe calls it
--   current_period_end  timestamp with time zone  when its period ends, null if it has none
--   user_id             uuid                      the learner whose it is, null if they are not known
-- Buffers: 10 light, 10 heavy

select
    status,
    current_period_end,
    user_id
from stripe_subscriptions
where stripe_subscription_id = :'stripe_subscription_id'::text;
