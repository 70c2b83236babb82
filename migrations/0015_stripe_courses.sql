-- Courses that are sold with Stripe: what a Checkout Session of mode payment paid for, and what was paid back. Events
-- come in any order. So the tables keep what each event said, and the view says which courses follow from all of it.

-- "if not exists" must pass over relations of an earlier, killed run of this migration, and over no others.
do $$
declare
    taken text;
begin
    select string_agg(relname, ', ' order by relname) into taken
    from pg_class
    inner join pg_namespace on relnamespace = pg_namespace.oid
    left join pg_index on pg_class.oid = indexrelid
    where
        nspname = current_schema()
        and relname in (
            'stripe_payments', 'stripe_reversals', 'paid_courses', 'stripe_payments_claimed_user_id_idx',
            'stripe_payments_user_id_idx'
        )
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

create table if not exists stripe_payments (
    -- The payment intent. A Checkout Session without a payment (a coupon of 100 percent) has none: then the session.
    source text primary key,
    checkout_session_id text not null,
    -- The learner and the courses that the session names. They need not be in users and courses yet.
    claimed_user_id uuid not null,
    course_ids uuid[] not null,
    -- The same learner, as soon as users has a row for them. Deleting that row deletes this one.
    user_id uuid references users (id) on delete cascade,
    event_created timestamptz not null,
    created_at timestamptz not null default now()
);

comment on table stripe_payments is 'which courses a Checkout Session paid for (created by progress-tracking)';

create index if not exists stripe_payments_claimed_user_id_idx on stripe_payments (claimed_user_id);

create index if not exists stripe_payments_user_id_idx on stripe_payments (user_id);

-- A refund may arrive before its payment. So this table has payments of any kind, also for what is no course.
create table if not exists stripe_reversals (
    payment_intent_id text primary key,
    -- When Stripe last said that the whole payment was refunded, and that a refund of it failed or was canceled.
    refunded_at timestamptz,
    refund_failed_at timestamptz,
    dispute_lost_at timestamptz,
    -- The rule is here alone. A refund fails after it was made: of one second, the failure is the later.
    ended boolean not null generated always as (
        dispute_lost_at is not null
        or (refunded_at is not null and (refund_failed_at is null or refunded_at > refund_failed_at))
    ) stored,
    created_at timestamptz not null default now()
);

comment on table stripe_reversals is 'payments that were refunded or lost in a dispute (created by progress-tracking)';

-- Which learner has which course because of what Stripe said. period_end is null if the course was bought for ever.
create or replace view paid_courses with (security_invoker = true) as
select
    payment.user_id,
    courses.id as course_id,
    payment.source,
    null::timestamptz as period_end
from stripe_payments as payment
inner join courses on courses.id = any(payment.course_ids)
left join stripe_reversals as reversal on payment.source = reversal.payment_intent_id
where payment.user_id is not null and reversal.ended is not true
union all
select
    subscription.user_id,
    courses.id as course_id,
    subscription.stripe_subscription_id as source,
    subscription.current_period_end as period_end
from stripe_subscriptions as subscription
cross join
    lateral json_array_elements_text(coalesce((subscription.items ->> 'courses')::json, '[]')) as named (course_id)
inner join courses on named.course_id::uuid = courses.id
where
    subscription.user_id is not null
    and subscription.status in ('active', 'trialing')
    and subscription.current_period_end is not null;

comment on view paid_courses is 'which courses Stripe gives to whom (created by progress-tracking)';
