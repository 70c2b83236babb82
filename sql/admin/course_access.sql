-- The courses that a learner bought or was given, and what gave each of them.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per course and source, in the order of the catalog
--   course_id   text     the course
--   title       text     its title
--   source      text     empty: by hand or by the site; otherwise Stripe's id of what was paid
--   expires_at  text     when this source stops giving the course, in UTC; null: never
--   has_ended   boolean  it has stopped
-- Buffers: 10 light, 10 heavy

select
    courses.id::text as course_id,
    courses.title,
    course_enrollments.source,
    -- to_char returns null for infinity.
    coalesce(
        to_char(course_enrollments.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        course_enrollments.expires_at::text
    ) as expires_at,
    coalesce(course_enrollments.expires_at <= now(), false) as has_ended
from course_enrollments
inner join courses on course_enrollments.course_id = courses.id
where course_enrollments.user_id = :'user_id'::uuid
order by courses.position, courses.id, course_enrollments.source;
