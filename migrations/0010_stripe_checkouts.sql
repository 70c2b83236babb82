-- A customer of Stripe's may pay for several learners, so a Checkout Session says whose its own subscription is, and a
-- customer's first one whose the subscriptions are that no session names. SUBSCRIPTION_GRACE and STRIPE_PRICES may
-- change, so the copy in subscriptions can be made again.

-- "if not exists" must pass over tables of an earlier, killed run of this migration, and over no others.
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
    -- The same, once they are in users; with them it goes.
    user_id uuid references users (id) on delete cascade,
    session_created timestamptz not null,
    created_at timestamptz not null default now()
);

comment on table stripe_checkouts is 'which learner a Checkout Session named (created by progress-tracking)';

create index if not exists stripe_checkouts_stripe_subscription_id_idx on stripe_checkouts (stripe_subscription_id);

create index if not exists stripe_checkouts_customer_id_idx on stripe_checkouts (customer_id);

create index if not exists stripe_checkouts_user_id_idx on stripe_checkouts (user_id);

-- Which Checkout Session said who a customer is. Both are null in the rows of earlier versions: those rows stay as they
-- are. event_created is for the earlier version, which still runs while this one starts.
alter table stripe_customers
add column if not exists checkout_session_id text,
add column if not exists session_created timestamptz;

-- What other events of the same second said, so that the order in which they come does not matter.
alter table stripe_subscriptions add column if not exists rivals json not null default '[]';

-- When the period of each price and product of a subscription ends, in seconds since 1970, and the event that said so.
-- It is made of object, which PostgreSQL cannot always read: JSON may hold characters that its text cannot.
alter table stripe_subscriptions add column if not exists items json;

-- current_period_end as the mirror wrote it, -infinity for null. Where the two differ, or this is null, somebody wrote
-- the row by hand.
alter table subscriptions add column if not exists mirrored_period_end timestamptz;

-- Earlier versions did not keep what they wrote. They wrote a period's end and, where there is access, the grace of the
-- time, which is 1 hour by default and a year at most. The most frequent difference is that grace, if more than one row
-- has it. Any other difference may be a gift of the operator's, and stays.
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
    -- Which the earlier versions never wrote, and which cannot be subtracted.
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
