-- Whether one of the courses that a payment or a subscription names is not loaded yet.
--
-- Parameters:
--   course_ids  uuid[]  the courses
-- Returns: one row
--   unknown  boolean  one of them is not in courses
-- Buffers: 5 light, 5 heavy

select exists(
    select from unnest(:'course_ids'::uuid[]) as named (course_id)
    where course_id not in (select id from courses)
) as unknown;
