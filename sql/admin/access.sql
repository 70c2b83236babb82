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
    ) as expires_at
from users
left join subscriptions on users.id = subscriptions.user_id
left join enrollments on users.id = enrollments.user_id
where users.id = :'user_id'::uuid;
