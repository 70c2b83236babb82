-- Gives learners the courses that follow from what Stripe said. Run it under lock.sql, or under
-- stripe/apply_terms_lock.sql.
--
-- Parameters:
--   grace     integer  seconds that a course lasts after the end of the period of its subscription
--   user_ids  uuid[]   the learners
-- Returns: nothing
-- Buffers: 10 light, 10 heavy

insert into course_enrollments as given (
    user_id,
    course_id,
    source,
    expires_at
)
select
    user_id,
    course_id,
    source,
    period_end + make_interval(secs => :'grace'::integer) as expires_at
from paid_courses
where user_id = any(:'user_ids'::uuid[])
on conflict (user_id, course_id, source) do update
    set expires_at = excluded.expires_at
    where given.expires_at is distinct from excluded.expires_at;
