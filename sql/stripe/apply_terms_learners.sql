-- The learners to copy again when SUBSCRIPTION_GRACE or STRIPE_PRICES may have changed: those whose row in
-- subscriptions the mirror wrote, and those who have no row. A learner is left out if somebody wrote the status or the
-- end of their row by hand. Run it under stripe/apply_terms_lock.sql.
--
-- Parameters: none
-- Returns: one row
--   user_ids  text  the learners, for stripe/copy.sql
-- Buffers: 5 light, 5 heavy

select coalesce(array_agg(distinct said.user_id), '{}')::text as user_ids
from stripe_subscriptions as said
left join subscriptions as copied on said.user_id = copied.user_id
left join stripe_subscriptions as source
    on
        copied.stripe_subscription_id = source.stripe_subscription_id
        and copied.user_id = source.user_id
where
    said.user_id is not null
    and (
        copied.user_id is null
        or (
            copied.status = source.status
            and copied.mirrored_period_end = coalesce(copied.current_period_end, '-infinity')
        )
    );
