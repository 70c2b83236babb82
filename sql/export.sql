-- Everything that is stored of a learner, eligible or not. There is an answer for everybody: also for a learner without
-- access, and for a person without a row in users, for whom something of Stripe's may be kept already.
--
-- Two tables are left out. `events` repeats what the answer has, and `rate_limits` only counts calls.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     exportedAt, userId, email, name, lessons, completions, access and stripe
--   version   text     a hash of the answer without its exportedAt, for the ETag
-- Buffers: 75 light, 300 heavy

-- The subscriptions that something ties to the learner are looked up by keys. Of these, the learner owns those that
-- stripe/attach.sql gives them, or will give them as soon as they are in users.
with own_subscriptions as materialized (
    select stripe_subscription_id
    from stripe_subscriptions as subscription
    where
        stripe_subscription_id = any(array(
            select stripe_subscription_id
            from stripe_subscriptions
            where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            union all
            select stripe_subscription_id
            from stripe_checkouts
            where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            union all
            select paid.stripe_subscription_id
            from stripe_customers as payer
            inner join stripe_subscriptions as paid on payer.customer_id = paid.customer_id
            where
                payer.user_id = :'user_id'::uuid
                or (payer.user_id is null and payer.claimed_user_id = :'user_id'::uuid)
        ))
        and coalesce(
            user_id,
            claimed_user_id,
            (
                select checkout.claimed_user_id
                from stripe_checkouts as checkout
                where checkout.stripe_subscription_id = subscription.stripe_subscription_id
                order by checkout.session_created asc, checkout.checkout_session_id asc
                limit 1
            ),
            (
                select customer.claimed_user_id
                from stripe_customers as customer
                where customer.customer_id = subscription.customer_id
            )
        ) = :'user_id'::uuid
),

stored as materialized (
    select
        (
            select email
            from learner_contacts
            where user_id = :'user_id'::uuid
        ) as email,
        (
            select name
            from learner_contacts
            where user_id = :'user_id'::uuid
        ) as name,
        (
            select
                coalesce(
                    json_agg(
                        json_build_object(
                            'lessonId', progress.lesson_id,
                            'title', lessons.title,
                            'moduleId', lessons.module_id,
                            'courseId', modules.course_id,
                            'completedAt',
                            to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                            'createdAt',
                            to_char(progress.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                            'updatedAt',
                            to_char(progress.updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                        )
                        order by date_trunc('milliseconds', progress.completed_at), progress.lesson_id
                    ),
                    '[]'
                )
            from progress
            inner join lessons on progress.lesson_id = lessons.id
            inner join modules on lessons.module_id = modules.id
            where progress.user_id = :'user_id'::uuid
        ) as lessons,
        json_build_object(
            'modules', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'moduleId', module_id,
                                'completedAt',
                                to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'startedOverAt',
                                to_char(started_over_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by date_trunc('milliseconds', completed_at), module_id
                        ),
                        '[]'
                    )
                from module_completions
                where user_id = :'user_id'::uuid
            ),
            'courses', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'courseId', course_id,
                                'completedAt',
                                to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'startedOverAt',
                                to_char(started_over_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by date_trunc('milliseconds', completed_at), course_id
                        ),
                        '[]'
                    )
                from course_completions
                where user_id = :'user_id'::uuid
            )
        ) as completions,
        -- to_char returns null for infinity, which is written as it is.
        json_build_object(
            'subscription', (
                select
                    json_build_object(
                        'userId', user_id,
                        'stripeSubscriptionId', stripe_subscription_id,
                        'status', status,
                        'currentPeriodEnd',
                        coalesce(
                            to_char(current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                            current_period_end::text
                        ),
                        'mirroredPeriodEnd',
                        coalesce(
                            to_char(mirrored_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                            mirrored_period_end::text
                        ),
                        'createdAt', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                from subscriptions
                where user_id = :'user_id'::uuid
            ),
            'enrollment', (
                select
                    json_build_object(
                        'userId', user_id,
                        'expiresAt',
                        coalesce(
                            to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                            expires_at::text
                        ),
                        'createdAt', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                from enrollments
                where user_id = :'user_id'::uuid
            ),
            'courses', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'courseId', given.course_id,
                                'source', given.source,
                                'expiresAt',
                                coalesce(
                                    to_char(given.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                    given.expires_at::text
                                ),
                                'createdAt',
                                to_char(given.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by courses.position, courses.id, given.source
                        ),
                        '[]'
                    )
                from course_enrollments as given
                inner join courses on given.course_id = courses.id
                where given.user_id = :'user_id'::uuid
            )
        ) as access,
        json_build_object(
            'customers', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'customerId', customer_id,
                                'claimedUserId', claimed_user_id,
                                'userId', user_id,
                                'checkoutSessionId', checkout_session_id,
                                'sessionCreated',
                                to_char(session_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'eventCreated',
                                to_char(event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'createdAt', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by created_at, customer_id
                        ),
                        '[]'
                    )
                from stripe_customers
                where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            ),
            'checkouts', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'checkoutSessionId', checkout_session_id,
                                'customerId', customer_id,
                                'stripeSubscriptionId', stripe_subscription_id,
                                'claimedUserId', claimed_user_id,
                                'userId', user_id,
                                'sessionCreated',
                                to_char(session_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'createdAt', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by created_at, checkout_session_id
                        ),
                        '[]'
                    )
                from stripe_checkouts
                where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            ),
            'subscriptions', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'stripeSubscriptionId', stripe_subscription_id,
                                'customerId', customer_id,
                                'claimedUserId', claimed_user_id,
                                'userId', user_id,
                                'status', status,
                                'currentPeriodEnd',
                                coalesce(
                                    to_char(current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                    current_period_end::text
                                ),
                                'eventId', event_id,
                                'eventType', event_type,
                                'eventCreated',
                                to_char(event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'object', object,
                                -- A subscription may have been another learner's. The metadata before a change, and
                                -- the other states of one second, may name that learner.
                                'previousAttributes', (
                                    select coalesce(json_object_agg(attribute.key, attribute.value), '{}')
                                    from json_each(previous_attributes) as attribute
                                    where attribute.key != 'metadata'
                                ),
                                'items', items,
                                'createdAt', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'updatedAt', to_char(updated_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by created_at, stripe_subscription_id
                        ),
                        '[]'
                    )
                from stripe_subscriptions
                where stripe_subscription_id = any(array(select stripe_subscription_id from own_subscriptions))
            ),
            'payments', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'source', source,
                                'checkoutSessionId', checkout_session_id,
                                'claimedUserId', claimed_user_id,
                                'userId', user_id,
                                'courseIds', course_ids,
                                'eventCreated',
                                to_char(event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'createdAt', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by created_at, source
                        ),
                        '[]'
                    )
                from stripe_payments
                where user_id = :'user_id'::uuid or (user_id is null and claimed_user_id = :'user_id'::uuid)
            ),
            -- A refund names its payment alone, and no learner.
            'reversals', (
                select
                    coalesce(
                        json_agg(
                            json_build_object(
                                'paymentIntentId', reversal.payment_intent_id,
                                'refundedAt',
                                to_char(reversal.refunded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'refundFailedAt',
                                to_char(reversal.refund_failed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'disputeLostAt',
                                to_char(reversal.dispute_lost_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                                'ended', reversal.ended,
                                'createdAt',
                                to_char(reversal.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            )
                            order by reversal.created_at, reversal.payment_intent_id
                        ),
                        '[]'
                    )
                from stripe_payments as payment
                inner join stripe_reversals as reversal on payment.source = reversal.payment_intent_id
                where
                    payment.user_id = :'user_id'::uuid
                    or (payment.user_id is null and payment.claimed_user_id = :'user_id'::uuid)
            )
        ) as stripe
)

select
    (
        select count(*) > 0
        from learner_access
        where user_id = :'user_id'::uuid
    ) as enrolled,
    json_build_object(
        'exportedAt', to_char(statement_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'userId', :'user_id'::uuid,
        'email', email,
        'name', name,
        'lessons', lessons,
        'completions', completions,
        'access', access,
        'stripe', stripe
    ) as answer,
    encode(sha256(convert_to(stored::text, 'UTF8')), 'hex') as version
from stored;
