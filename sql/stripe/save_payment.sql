-- Stores the learner and the courses that a paid Checkout Session names. The newest event stays. If two events are of
-- one second, the larger ids stay, so that the order of arrival does not matter. Run it under stripe/lock.sql, for the
-- payment and then for the learner.
--
-- Parameters:
--   source               text              Stripe's id of the payment intent; of the session if there is none
--   checkout_session_id  text              the Checkout Session
--   claimed_user_id      uuid              the learner, who need not be in users yet
--   course_ids           uuid[]            the courses, which need not be in courses yet
--   event_created        double precision  when Stripe made the event, in seconds since 1970
-- Returns: nothing
-- Buffers: 20 light, 20 heavy

insert into stripe_payments as stored (
    source,
    checkout_session_id,
    claimed_user_id,
    course_ids,
    event_created
)
values (
    :'source'::text,
    :'checkout_session_id'::text,
    :'claimed_user_id'::uuid,
    :'course_ids'::uuid[],
    to_timestamp(:'event_created'::double precision)
)
on conflict (source) do update
    set
        claimed_user_id = excluded.claimed_user_id,
        course_ids = excluded.course_ids,
        event_created = excluded.event_created
    where
    (excluded.event_created, excluded.claimed_user_id, excluded.course_ids)
    > (stored.event_created, stored.claimed_user_id, stored.course_ids);
