-- Takes from learners the courses that Stripe gave and gives no more. Rows of course_enrollments with another source
-- stay: those that somebody wrote by hand, and those that the site wrote. Run it under lock.sql, or under
-- stripe/apply_terms_lock.sql.
--
-- Parameters:
--   user_ids  uuid[]  the learners
-- Returns: nothing
-- Buffers: 10 light, 10 heavy

-- The two questions are two CTEs, because Citus joins no distributed table with tables of the coordinator.
with given as materialized (
    select
        user_id,
        course_id,
        source
    from course_enrollments
    where user_id = any(:'user_ids'::uuid[]) and source != ''
),

ended as materialized (
    select
        user_id,
        course_id,
        source
    from given
    where
        (
            exists (
                select from stripe_payments
                where stripe_payments.source = given.source
            )
            or exists (
                select from stripe_subscriptions
                where stripe_subscriptions.stripe_subscription_id = given.source
            )
        )
        and (user_id, course_id, source) not in (
            select
                user_id,
                course_id,
                source
            from paid_courses
            where user_id = any(:'user_ids'::uuid[])
        )
)

delete from course_enrollments as given
using ended
where
    given.user_id = any(:'user_ids'::uuid[])
    and given.user_id = ended.user_id
    and given.course_id = ended.course_id
    and given.source = ended.source;
