-- When NEW_LEARNERS or make add-user adds a learner, the learner at once gets the subscriptions at Stripe that name the
-- learner. These indexes find them. They contain only rows that have no owner yet.

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
            'stripe_subscriptions_unattached_idx', 'stripe_checkouts_unattached_idx', 'stripe_customers_unattached_idx'
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

-- Few rows have no owner, so each index is built in the time of one scan. Stripe's events wait for that time. Learners'
-- calls do not wait, because they do not write these tables.
-- squawk-ignore require-concurrent-index-creation
create index if not exists stripe_subscriptions_unattached_idx
on stripe_subscriptions (claimed_user_id) where user_id is null;

-- squawk-ignore require-concurrent-index-creation
create index if not exists stripe_checkouts_unattached_idx
on stripe_checkouts (claimed_user_id) where user_id is null;

-- squawk-ignore require-concurrent-index-creation
create index if not exists stripe_customers_unattached_idx
on stripe_customers (claimed_user_id) where user_id is null;
