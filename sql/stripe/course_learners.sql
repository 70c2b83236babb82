-- The learners whose courses differ from what Stripe gives: a course was loaded after it was paid for, the site added a
-- learner to users, or SUBSCRIPTION_GRACE has changed. Run it under stripe/apply_terms_lock.sql.
--
-- Parameters:
--   grace  integer  seconds that a course lasts after the end of the period of its subscription
-- Returns: one row
--   user_ids  text  the learners, for stripe/attach_payments.sql, stripe/take_courses.sql and stripe/give_courses.sql
-- Buffers: 10 light, 10 heavy

-- An array keeps the question small where users is distributed: a join would fetch the ids of all learners.
with known as materialized (
    select id
    from users
    where id = any(array(
        select claimed_user_id
        from stripe_payments
        where user_id is null
    ))
),

given as materialized (
    select
        user_id,
        course_id,
        source,
        expires_at
    from course_enrollments
    where source != ''
)

select coalesce(array_agg(differing.user_id), '{}')::text as user_ids
from (
    select claimed_user_id as user_id
    from stripe_payments
    where
        user_id is null
        and claimed_user_id in (select id from known)
    union
    select paid_courses.user_id
    from paid_courses
    left join given
        on
            paid_courses.user_id = given.user_id
            and paid_courses.course_id = given.course_id
            and paid_courses.source = given.source
    where
        given.user_id is null
        or given.expires_at is distinct from paid_courses.period_end + make_interval(secs => :'grace'::integer)
) as differing;
