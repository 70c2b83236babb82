-- The courses that a payment at Stripe gives its learner, for the report of make stripe-sync.
--
-- Parameters:
--   user_id  uuid  the learner
--   source   text  Stripe's id of the payment intent; of the Checkout Session if there is none
-- Returns: one row
--   courses  text  the ids of the courses, or: no course
-- Buffers: 10 light, 10 heavy

select coalesce(string_agg(course_id::text, ', ' order by course_id), 'no course') as courses
from course_enrollments
where user_id = :'user_id'::uuid and source = :'source'::text;
