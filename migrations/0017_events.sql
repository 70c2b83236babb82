-- Events for the site's own systems. A write adds its events in its own transaction, and `make deliver` sends them.

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
            'events', 'events_due_idx', 'events_waiting_idx', 'events_delivered_idx', 'events_given_up_idx'
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

-- An event waits until it is delivered or given up. Of the waiting events of one learner only the first one has a
-- next_attempt_at, so the events of a learner go out one after the other.
create table if not exists events (
    user_id uuid not null references users (id) on delete cascade,
    -- The order of a learner's events: the writes of one learner run one after the other.
    id bigint generated always as identity,
    -- The header webhook-id. It is made once, so that a receiver can recognize an event that arrives twice.
    webhook_id text not null,
    type text not null,
    -- The member `data` of the body. The type json keeps the text as it is, and so every attempt sends the same body.
    data json not null,
    -- When the next attempt is due. While a deliverer has the event, this is the end of its lease.
    next_attempt_at timestamptz,
    -- When a deliverer took the event. It identifies the lease, and is null while no deliverer has the event.
    claimed_at timestamptz,
    attempts integer not null default 0,
    -- What the last attempt met: the status of the answer or, without an answer, the reason in words.
    last_attempt_at timestamptz,
    last_status integer,
    last_error text,
    delivered_at timestamptz,
    given_up_at timestamptz,
    -- The time of the write, and the member `timestamp` of the body.
    created_at timestamptz not null default now(),
    primary key (user_id, id)
)
-- Each row is updated about three times in its life, so dead rows pile up faster than the default expects.
with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

comment on table events is 'what is sent to the site''s webhook (created by progress-tracking)';

-- Each index has only the rows that its question is about. So a claim reads a few pages, however many events wait
-- behind others, and however many delivered ones are kept.
create index if not exists events_due_idx
on events (next_attempt_at) where next_attempt_at is not null;

create index if not exists events_waiting_idx
on events (user_id, id) include (created_at) where delivered_at is null and given_up_at is null;

create index if not exists events_delivered_idx
on events (delivered_at) where delivered_at is not null;

create index if not exists events_given_up_idx
on events (given_up_at) where given_up_at is not null;
