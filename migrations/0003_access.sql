-- Who has access: by a paid subscription, or by an enrollment in the free lessons.

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
        and relname in ('subscriptions', 'enrollments')
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

create table if not exists subscriptions (
    user_id uuid primary key references users (id) on delete cascade,
    stripe_subscription_id text unique,
    status text not null,
    current_period_end timestamptz,
    created_at timestamptz not null default now()
);

comment on table subscriptions is 'learners'' subscriptions, mirrored from Stripe (created by progress-tracking)';

create table if not exists enrollments (
    user_id uuid primary key references users (id) on delete cascade,
    expires_at timestamptz,
    created_at timestamptz not null default now()
);

comment on table enrollments is 'learners with free access (created by progress-tracking)';
