-- When a learner had completed every published lesson of a module or of a course. A row stays, whatever is unmarked,
-- published or moved later, so it cannot be made from progress.

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
            'module_completions', 'course_completions', 'module_completions_open_idx', 'course_completions_open_idx',
            'module_completions_module_id_idx', 'course_completions_course_id_idx'
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

create table if not exists module_completions (
    user_id uuid not null references users (id) on delete cascade,
    -- As with a lesson that somebody has completed: a module that somebody has completed cannot be deleted.
    module_id uuid not null references modules (id),
    -- The latest completed_at of the lessons, so it has the limits of progress.completed_at.
    completed_at timestamptz not null
    check (completed_at >= '1970-01-01 00:00:00+00' and completed_at < '10000-01-01 00:00:00+00'),
    -- When the learner started the module over. Until then, the module is not completed a second time.
    started_over_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (user_id, module_id, completed_at)
);

comment on table module_completions is 'which learner completed which module, and when (created by progress-tracking)';

-- At most one completion of a learner and a module is open.
create unique index if not exists module_completions_open_idx
on module_completions (user_id, module_id) where started_over_at is null;

-- For the foreign key. The primary key begins with the learner.
create index if not exists module_completions_module_id_idx on module_completions (module_id);

create table if not exists course_completions (
    user_id uuid not null references users (id) on delete cascade,
    course_id uuid not null references courses (id),
    completed_at timestamptz not null
    check (completed_at >= '1970-01-01 00:00:00+00' and completed_at < '10000-01-01 00:00:00+00'),
    started_over_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (user_id, course_id, completed_at)
);

comment on table course_completions is 'which learner completed which course, and when (created by progress-tracking)';

create unique index if not exists course_completions_open_idx
on course_completions (user_id, course_id) where started_over_at is null;

create index if not exists course_completions_course_id_idx on course_completions (course_id);
