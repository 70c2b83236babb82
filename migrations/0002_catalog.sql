-- What can be learned: modules, their lessons, and which lessons must be completed before which.

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
            'modules', 'lessons', 'lesson_prerequisites', 'lessons_module_id_idx',
            'lesson_prerequisites_prerequisite_id_idx'
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

create table if not exists modules (
    id uuid primary key,
    title text not null,
    position integer not null,
    created_at timestamptz not null default now()
);

comment on table modules is 'ordered groups of lessons (created by progress-tracking)';

create table if not exists lessons (
    id uuid primary key,
    module_id uuid not null references modules (id),
    title text not null,
    position integer not null,
    published boolean not null default false,
    is_free boolean not null default false,
    created_at timestamptz not null default now()
);

comment on table lessons is 'what can be completed (created by progress-tracking)';

create index if not exists lessons_module_id_idx on lessons (module_id);

create table if not exists lesson_prerequisites (
    lesson_id uuid not null references lessons (id) on delete cascade,
    prerequisite_id uuid not null references lessons (id) on delete cascade,
    created_at timestamptz not null default now(),
    primary key (lesson_id, prerequisite_id),
    check (lesson_id != prerequisite_id)
);

comment on table lesson_prerequisites is 'what must be completed first (created by progress-tracking)';

create index if not exists lesson_prerequisites_prerequisite_id_idx on lesson_prerequisites (prerequisite_id);
