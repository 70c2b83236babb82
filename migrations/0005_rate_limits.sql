-- The write limit: when each learner last wrote. The table is unlogged, so a hit does not wait for the disk, and a
-- crash of the database may forget a window. Each page has free room, so an update stays on its page and changes no
-- index (HOT). Autovacuum starts after a number of dead rows, and not after a share of the table.

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
    -- The latest writes, oldest first: at most as many as the limit allows in a window.
    hits timestamptz array not null,
    -- When the last of these writes leaves the window. After that, the row is not needed.
    expires_at timestamptz not null
) with (fillfactor = 70, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

comment on table rate_limits is 'when each learner last wrote (created by progress-tracking)';
