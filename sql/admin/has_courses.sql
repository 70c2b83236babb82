-- Whether the site has courses. Without any, make stripe-sync reads no payments.
--
-- Parameters: none
-- Returns: one row
--   has_courses  boolean  there is at least one course
-- Buffers: 5 light, 5 heavy

select exists(select from courses) as has_courses;
