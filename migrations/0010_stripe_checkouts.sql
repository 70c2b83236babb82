-- One customer at Stripe may pay for several learners. So a Checkout Session names the learner of its own subscription.
-- For subscriptions that no session names, the customer's first session names the learner. SUBSCRIPTION_GRACE and
-- STRIPE_PRICES may change, so this migration adds what is needed to copy into subscriptions again.

-- "if not exists" may skip what an earlier run of this migration created before it was killed, and nothing else.
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
            'stripe_checkouts', 'stripe_checkouts_stripe_subscription_id_idx', 'stripe_checkouts_customer_id_idx',
            'stripe_checkouts_user_id_idx'
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

-- The Checkout Sessions that name a subscription and its learner. The learner need not be in users yet.
create table if not exists stripe_checkouts (
    checkout_session_id text primary key,
    customer_id text not null,
    stripe_subscription_id text not null,
    claimed_user_id uuid not null,
    -- The same learner, as soon as users has a row for them. Deleting that row deletes this one.
    user_id uuid references users (id) on delete cascade,
    session_created timestamptz not null,
    created_at timestamptz not null default now()
);

comment on table stripe_checkouts is 'which learner a Checkout Session named (created by progress-tracking)';

create index if not exists stripe_checkouts_stripe_subscription_id_idx on stripe_checkouts (stripe_subscription_id);

create index if not exists stripe_checkouts_customer_id_idx on stripe_checkouts (customer_id);

create index if not exists stripe_checkouts_user_id_idx on stripe_checkouts (user_id);

-- The Checkout Session that named the learner of the customer. Both columns are null in rows of earlier versions, and
-- those rows stay as they are. An earlier version, which still runs while this one starts, needs event_created.
alter table stripe_customers
add column if not exists checkout_session_id text,
add column if not exists session_created timestamptz;

-- Other events of the same second, which make the result independent of the order in which the events arrive.
alter table stripe_subscriptions add column if not exists rivals json not null default '[]';

-- When the period of each price and product of a subscription ends, in seconds since 1970, and the event that says so.
-- The service makes it from object. PostgreSQL cannot always do that: JSON may hold characters that its text cannot.
alter table stripe_subscriptions add column if not exists items json;

-- current_period_end as the mirror wrote it, with -infinity for null. If the two columns differ, or this one is null,
-- somebody wrote the row by hand.
alter table subscriptions add column if not exists mirrored_period_end timestamptz;

-- Earlier versions did not keep a copy of what they wrote. They wrote the end of the period and, if the status gives
-- access, added the grace of that time: 1 hour by default, at most a year. The most frequent difference is that grace,
-- if more than one row has it. Any other difference may be extra time that an operator gave, and stays.
with copied as (
    select
        subscription.user_id,
        subscription.current_period_end,
        subscription.status in ('active', 'trialing') as gives_access,
        subscription.current_period_end - said.current_period_end as grace
    from subscriptions as subscription
    inner join stripe_subscriptions as said
        on
            subscription.stripe_subscription_id = said.stripe_subscription_id
            and subscription.user_id = said.user_id
            and subscription.status = said.status
    -- Earlier versions never wrote infinity, and infinity cannot be subtracted.
    where isfinite(subscription.current_period_end)
),

usual as (
    select grace
    from copied
    where gives_access and grace between interval '0' and interval '366 days'
    group by grace
    having count(*) > 1 or grace = interval '1 hour'
    order by
        count(*) desc,
        grace asc
    limit 1
)

update subscriptions
set mirrored_period_end = copied.current_period_end
from copied
left join usual on true
where
    subscriptions.user_id = copied.user_id
    and subscriptions.mirrored_period_end is null
    and copied.grace = case when copied.gives_access then usual.grace else interval '0' end;
