-- What Stripe says of every payment for courses that names a learner, for make access. A payment is among them also if
-- it waits for its learner or its courses.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per payment, the newest first
--   source    text     Stripe's id of the payment intent; of the Checkout Session if there is none
--   said_at   text     when Stripe said that it was paid, in UTC
--   courses   text     the ids of the courses that it names
--   unknown   text     those of them that are not loaded, null if there is none
--   refunded  boolean  the whole payment was refunded, or lost in a dispute
--   attached  boolean  it is the learner's; false: it is nobody's yet
-- Buffers: 10 light, 10 heavy

select
    payment.source,
    to_char(payment.event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as said_at,
    array_to_string(payment.course_ids, ', ') as courses,
    (
        select string_agg(course_id::text, ', ' order by course_id)
        from unnest(payment.course_ids) as named (course_id)
        where course_id not in (select id from courses)
    ) as unknown,
    coalesce(reversal.ended, false) as refunded,
    payment.user_id is not null as attached
from stripe_payments as payment
left join stripe_reversals as reversal on payment.source = reversal.payment_intent_id
where payment.claimed_user_id = :'user_id'::uuid
order by
    payment.event_created desc,
    payment.source asc;
