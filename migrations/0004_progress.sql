-- A row means that this learner has completed this lesson. Counts are never stored: they are made from these rows.

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
        and relname in ('progress', 'progress_lesson_id_idx')
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

create table if not exists progress (
    user_id uuid not null references users (id) on delete cascade,
    lesson_id uuid not null references lessons (id),
    -- An answer of the API can show only times between these two: its years have four digits, and it has no infinity.
    completed_at timestamptz not null
    check (completed_at >= '1970-01-01 00:00:00+00' and completed_at < '10000-01-01 00:00:00+00'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- The index includes the time of completion, so the index alone answers for a learner. In the index, the rows of
    -- one learner are next to each other. In the table, each may be on another page. The index is a quarter larger.
    primary key (user_id, lesson_id) include (completed_at)
) with (
    -- Rows are inserted, some are deleted, and few are updated. A second mark updates updated_at, which no index has.
    -- A page that is not full yet has room for that update (HOT). So no room is kept free.
    fillfactor = 100,
    -- The index alone can answer only for pages that were vacuumed after their last change. So vacuum after a number of
    -- new rows, and not after a share of them. With the default and three million rows, the newest 600,000 rows would
    -- wait for a vacuum, and these are read most.
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

comment on table progress is 'which learner has completed which lesson (created by progress-tracking)';

create index if not exists progress_lesson_id_idx on progress (lesson_id);
