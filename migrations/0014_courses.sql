-- Courses: ordered groups of modules, and who has access to one course alone. A site need not have any. A module
-- without a course counts as before.

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
            'courses', 'course_enrollments', 'modules_course_id_idx', 'course_enrollments_course_id_idx'
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

create table if not exists courses (
    id uuid primary key,
    title text not null,
    position integer not null,
    created_at timestamptz not null default now(),
    constraint courses_id_version_4 check (
        id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
    )
);

comment on table courses is 'ordered groups of modules (created by progress-tracking)';

-- A site may have added a column of this name to modules for its own courses. "if not exists" below would skip it.
do $$
begin
    if exists (
        select from pg_attribute
        where attrelid = 'modules'::regclass and attname = 'course_id' and not attisdropped
    ) and not exists (
        select from pg_constraint
        inner join pg_attribute on conrelid = attrelid and conkey = array[attnum]
        where
            conrelid = 'modules'::regclass
            and confrelid = 'courses'::regclass
            and contype = 'f'
            and attname = 'course_id'
    ) then
        raise exception using
            errcode = 'duplicate_column',
            message = 'the table modules already has a column course_id that this service did not create',
            hint = 'Rename it: alter table modules rename column course_id to another_name. To keep what it says, fill '
            'courses and the new course_id from it after this migration.';
    end if;
end
$$;

-- modules is as small as a catalog, and the new column is null in every row: the foreign key has nothing to check, and
-- the index is built in a moment.
-- squawk-ignore adding-foreign-key-constraint
alter table modules add column if not exists course_id uuid references courses (id);

-- squawk-ignore require-concurrent-index-creation
create index if not exists modules_course_id_idx on modules (course_id);

-- The source says who gave the course: '' by hand or by the site, otherwise Stripe's id of what was paid. So the end of
-- one payment does not take away what another payment, or somebody's gift, gives.
create table if not exists course_enrollments (
    user_id uuid not null references users (id) on delete cascade,
    course_id uuid not null references courses (id),
    source text not null default '',
    expires_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (user_id, course_id, source)
);

comment on table course_enrollments is 'learners with access to a course (created by progress-tracking)';

-- For the foreign key, and to find who has a course. The primary key begins with the learner.
create index if not exists course_enrollments_course_id_idx on course_enrollments (course_id);

-- The views below read the new tables with the rights of the role that asks. The version before runs on until it is
-- restarted, under a role with the rights that its own deploy/grants.sql gave. So each role that may read the views
-- gets what the views need now.
do $$
declare
    reader oid;
begin
    for reader in
        select grantee
        from pg_class
        cross join lateral aclexplode(relacl)
        where pg_class.oid = 'learner_access'::regclass and privilege_type = 'SELECT' and grantee != relowner
    loop
        execute 'grant select on courses, course_enrollments to '
            || case when reader = 0 then 'public' else reader::regrole::text end;
    end loop;
end
$$;

-- "create or replace view" keeps the rights and what depends on the view, and can only add columns at the end. 0012
-- leaves these views alone where they are there already.

-- A row for each learner with access of any kind. A learner without a row is not enrolled.
--
-- It does not read users, because every row of these tables refers to a row there. So a role from which row level
-- security hides users still sees who has access: a write then fails at its lock, and no read says "not enrolled".
--
-- PostgreSQL hands a condition on user_id down to each part of the union. The courses are one array, so the view has
-- one row for a learner: with a join to the courses, or an "exists", PostgreSQL would look the courses up for each
-- lesson.
create or replace view learner_access with (security_invoker = true) as
select
    user_id,
    bool_or(full_access) as full_access,
    bool_or(free_access) as free_access,
    coalesce(array_agg(distinct course_id) filter (where course_id is not null), '{}') as course_ids
from (
    select
        user_id,
        true as full_access,
        false as free_access,
        null::uuid as course_id
    from subscriptions
    where status in ('active', 'trialing') and current_period_end > now()
    union all
    select
        user_id,
        false as full_access,
        true as free_access,
        null::uuid as course_id
    from enrollments
    where expires_at is null or expires_at > now()
    union all
    select
        user_id,
        false as full_access,
        false as free_access,
        course_id
    from course_enrollments
    where expires_at is null or expires_at > now()
) as reasons
group by user_id;

-- A row for each learner and each lesson that the learner may take, with what catalog order needs.
--
-- courses is joined for its position alone. PostgreSQL leaves the join out if a statement does not ask for it.
create or replace view accessible_lessons with (security_invoker = true) as
select
    learner_access.user_id,
    lessons.id as lesson_id,
    lessons.module_id,
    lessons.title,
    lessons.position,
    modules.course_id,
    modules.position as module_position,
    courses.position as course_position
from learner_access
inner join lessons on lessons.published
inner join modules on lessons.module_id = modules.id
left join courses on modules.course_id = courses.id
where
    learner_access.full_access
    or (learner_access.free_access and lessons.is_free)
    or modules.course_id = any(learner_access.course_ids);
