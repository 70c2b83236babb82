-- What Stripe says about each subscription, one row for each. A learner may have two, and a late event about the old
-- one must not end the access that the new one gives. The best subscription of a learner is copied into subscriptions.

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
            'stripe_customers', 'stripe_subscriptions', 'stripe_customers_user_id_idx',
            'stripe_subscriptions_customer_id_idx', 'stripe_subscriptions_user_id_idx'
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

-- The learner of each customer at Stripe, as a Checkout Session named them. The learner need not be in users yet.
create table if not exists stripe_customers (
    customer_id text primary key,
    claimed_user_id uuid not null,
    -- The same learner, as soon as users has a row for them. Deleting that row deletes this one.
    user_id uuid references users (id) on delete cascade,
    event_created timestamptz not null,
    created_at timestamptz not null default now()
);

comment on table stripe_customers is 'which learner a customer of Stripe''s is (created by progress-tracking)';

create index if not exists stripe_customers_user_id_idx on stripe_customers (user_id);

create table if not exists stripe_subscriptions (
    stripe_subscription_id text primary key,
    customer_id text not null,
    -- The learner that the subscription itself names, in its metadata.
    claimed_user_id uuid,
    -- The owner: the learner in claimed_user_id, or else the learner of the customer, as soon as they are in users.
    user_id uuid references users (id) on delete cascade,
    status text not null,
    current_period_end timestamptz,
    -- From the event that is stored here. The last two columns tell which of two events of one second came later.
    event_id text not null,
    event_type text not null,
    event_created timestamptz not null,
    object json not null,
    previous_attributes json not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

comment on table stripe_subscriptions is 'what Stripe said last of each subscription (created by progress-tracking)';

create index if not exists stripe_subscriptions_customer_id_idx on stripe_subscriptions (customer_id);

create index if not exists stripe_subscriptions_user_id_idx on stripe_subscriptions (user_id);
