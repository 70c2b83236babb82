-- The write limit: when each learner last wrote. Unlogged: a crash of the database may forget a window, and a hit costs
-- no wait for the disk. Room in each page keeps an update on its page, so that the index is left alone (HOT); rows that
-- come and go are swept up by their number, not by their share.

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
        and relname in ('rate_limits')
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

create unlogged table if not exists rate_limits (
    key text primary key,
    -- The latest, oldest first; as many as the limit allows in a window.
    hits timestamptz array not null,
    -- When the last of them leaves the window: after that, the row is of no use.
    expires_at timestamptz not null
) with (fillfactor = 70, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

comment on table rate_limits is 'when each learner last wrote (created by progress-tracking)';
