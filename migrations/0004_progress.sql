-- One row: this user has completed this lesson. Nothing derived from it is stored anywhere.

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
    -- The range that the API can show: four-digit years, no infinity.
    completed_at timestamptz not null
    check (completed_at >= '1970-01-01 00:00:00+00' and completed_at < '10000-01-01 00:00:00+00'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- With the time of completion: what is asked of a learner's own rows is answered from the index, where they lie
    -- together; in the table they lie as they came, each on a page of its own. It makes the index a quarter larger.
    primary key (user_id, lesson_id) include (completed_at)
) with (
    -- Rows come, some go, and hardly one is changed: a second mark changes updated_at, which is in no index, and finds
    -- room on its page (HOT) while that is being filled. So no room is kept.
    fillfactor = 100,
    -- An index answers alone only for pages that a vacuum has seen since. By the number of new rows, and not by their
    -- share: of three million rows, the default would leave the latest 600,000 out, which are asked for most.
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

comment on table progress is 'which learner has completed which lesson (created by progress-tracking)';

create index if not exists progress_lesson_id_idx on progress (lesson_id);
