-- Ends, now, a course that a learner was given by hand or by the site. The learner's completions stay. What another
-- source gives stays too, and so does a row that has ended already.
--
-- Parameters:
--   user_id    uuid  the learner
--   course_id  uuid  the course
-- Returns: one row, none if there is no such course
--   was_given  boolean  the learner had the course in this way until now
-- Buffers: 15 light, 15 heavy

with ended as (
    update course_enrollments
    set expires_at = now()
    where
        user_id = :'user_id'::uuid
        and course_id = :'course_id'::uuid
        and source = ''
        and (expires_at is null or expires_at > now())
    returning course_id
)

select
    (
        select count(*)
        from ended
    ) > 0 as was_given
from courses
where id = :'course_id'::uuid;
