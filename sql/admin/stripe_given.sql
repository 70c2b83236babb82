-- The learner and the courses that a payment at Stripe gives, for the report of make stripe-sync.
--
-- Parameters:
--   source  text  Stripe's id of the payment intent; of the Checkout Session if there is none
-- Returns: one row, none if the payment is not known
--   user_id  uuid  the learner, null if not known
--   courses  text  the ids of the courses that the learner has by it, null if there is none
-- Buffers: 10 light, 10 heavy

select
    payment.user_id,
    (
        select string_agg(course_id::text, ', ' order by course_id)
        from course_enrollments
        where course_enrollments.user_id = payment.user_id and course_enrollments.source = payment.source
    ) as courses
from stripe_payments as payment
where payment.source = :'source'::text;
