-- A join of users with a table of the coordinator. Citus refused it.

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
