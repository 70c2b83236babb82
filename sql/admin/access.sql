-- What access a learner has, and why.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if there is no such learner
--   access              text     full, free, or null: not enrolled
--   status              text     their subscription's, null if they have none
--   current_period_end  text     when its period ends, in UTC
--   enrolled            boolean  they have the free path, or had it
--   expires_at          text     when that ends, in UTC; null: never
--   stripe              text     the subscription that Stripe said something of last, null if it never did
--   stripe_status       text     what it is
--   stripe_period_end   text     when its period ends, in UTC
--   stripe_said_at      text     when Stripe said so, in UTC
-- Buffers: 15 light, 15 heavy

select
    case
        when
            subscriptions.status in ('active', 'trialing') and subscriptions.current_period_end > now()
            then 'full'
        when
            enrollments.user_id is not null and (enrollments.expires_at is null or enrollments.expires_at > now())
            then 'free'
    end as access,
    subscriptions.status,
    -- to_char answers null for infinity.
    coalesce(
        to_char(subscriptions.current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        subscriptions.current_period_end::text
    ) as current_period_end,
    enrollments.user_id is not null as enrolled,
    coalesce(
        to_char(enrollments.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        enrollments.expires_at::text
    ) as expires_at,
    said.stripe_subscription_id as stripe,
    said.status as stripe_status,
    to_char(said.current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as stripe_period_end,
    to_char(said.event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as stripe_said_at
from users
left join subscriptions on users.id = subscriptions.user_id
left join enrollments on users.id = enrollments.user_id
left join lateral (
    select
        stripe_subscription_id,
        status,
        current_period_end,
        event_created
    from stripe_subscriptions
    where stripe_subscriptions.user_id = users.id
    order by event_created desc, stripe_subscription_id asc
    limit 1
) as said on true
where users.id = :'user_id'::uuid;
