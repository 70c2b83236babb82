-- Which access a learner has, and why.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if there is no such learner
--   access              text     full, course, free, or null: not enrolled
--   status              text     the status of the learner's subscription, null if there is none
--   current_period_end  text     when the period of the subscription ends, in UTC
--   has_enrollment      boolean  the learner has a row in enrollments, which may have expired
--   expires_at          text     when the enrollment ends, in UTC; null: it has no end, or there is none
--   free_access         boolean  the learner has free access now; null: not enrolled
-- Buffers: 15 light, 15 heavy

select
    case
        when learner_access.full_access then 'full'
        when learner_access.course_ids != '{}' then 'course'
        when learner_access.free_access then 'free'
    end as access,
    subscriptions.status,
    -- to_char returns null for infinity.
    coalesce(
        to_char(subscriptions.current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        subscriptions.current_period_end::text
    ) as current_period_end,
    enrollments.user_id is not null as has_enrollment,
    coalesce(
        to_char(enrollments.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        enrollments.expires_at::text
    ) as expires_at,
    learner_access.free_access
from users
left join learner_access on users.id = learner_access.user_id
left join subscriptions on users.id = subscriptions.user_id
left join enrollments on users.id = enrollments.user_id
where users.id = :'user_id'::uuid;
