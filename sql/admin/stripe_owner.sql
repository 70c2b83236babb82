-- The status, the end and the learner of a subscription at Stripe, for the report of make stripe-sync.
--
-- Parameters:
--   stripe_subscription_id  text  the subscription
-- Returns: one row, none if the subscription is not known
--   status              text  the status, in Stripe's words
--   current_period_end  text  when the period ends, in UTC; null if there is none
--   user_id             uuid  the learner, null if not known
-- Buffers: 10 light, 10 heavy

select
    status,
    to_char(current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as current_period_end,
    user_id
from stripe_subscriptions
where stripe_subscription_id = :'stripe_subscription_id'::text;
