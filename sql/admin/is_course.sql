-- Whether there is a course with this id.
--
-- Parameters:
--   course_id  uuid  the course
-- Returns: one row
--   is_course  boolean  there is such a course
-- Buffers: 5 light, 5 heavy

select count(*) > 0 as is_course
from courses
where id = :'course_id'::uuid;
