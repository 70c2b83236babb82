-- The access rule and the rule for prerequisites (contract, section 2), each in one place: the statements of sql/ read
-- these views. PostgreSQL replaces a view by its query before it plans, so a view costs no more than the same lines
-- would cost in each statement.

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
            'learner_access', 'accessible_lessons', 'published_prerequisites', 'lessons_unpublished_idx'
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

-- A view is bound to its tables when it is created. These names mean this service's tables: 0007 has checked that the
-- first schema of the search_path has them.
--
-- security_invoker: PostgreSQL checks the rights and the row level security of the role that asks, and not of the owner
-- of the view. So a view lets nobody read more than the tables do.

-- 0014_courses adds columns to the first two views, and a view cannot lose columns. So a repeated run of this migration
-- leaves them alone.
do $$
begin
    if to_regclass(quote_ident(current_schema()) || '.learner_access') is not null then
        return;
    end if;

    -- A row for each learner with access of any kind. A learner without a row is not enrolled.
    --
    -- It does not read users, because every row of these two tables refers to a row there. So a role from which row level
    -- security hides users still sees who has access: a write then fails at its lock, and no read says "not enrolled".
    --
    -- PostgreSQL hands a condition on user_id down to both parts of the union. With a full join it does so in simple
    -- statements only, and in others it would read the access of every learner.
    create view learner_access with (security_invoker = true) as
    select
        user_id,
        bool_or(full_access) as full_access,
        bool_or(free_access) as free_access
    from (
        select
            user_id,
            true as full_access,
            false as free_access
        from subscriptions
        where status in ('active', 'trialing') and current_period_end > now()
        union all
        select
            user_id,
            false as full_access,
            true as free_access
        from enrollments
        where expires_at is null or expires_at > now()
    ) as reasons
    group by user_id;

    comment on view learner_access is 'who has which access now (created by progress-tracking)';

    -- A row for each learner and each lesson that the learner may take.
    create view accessible_lessons with (security_invoker = true) as
    select
        learner_access.user_id,
        lessons.id as lesson_id,
        lessons.module_id,
        lessons.title,
        lessons.position
    from learner_access
    inner join lessons
        on
            lessons.published
            and (learner_access.full_access or (learner_access.free_access and lessons.is_free));

    comment on view accessible_lessons is 'which learner may take which lesson now (created by progress-tracking)';
end
$$;

-- A row for each prerequisite that counts: an unpublished one never locks a lesson, because nobody can complete it.
--
-- The unpublished lessons are few. PostgreSQL reads them from the index below into one hash table, and asks that table
-- for each row. This costs the same under a generic plan and under a custom plan. A join might become a nested loop.
create or replace view published_prerequisites with (security_invoker = true) as
select
    lesson_id,
    prerequisite_id
from lesson_prerequisites
where prerequisite_id not in (
    select id from lessons
    where not published
);

comment on view published_prerequisites is 'what must be completed first and can be (created by progress-tracking)';

-- lessons has as many rows as the catalog, so the index is built in a moment. Reads and marks go on meanwhile.
-- squawk-ignore require-concurrent-index-creation
create index if not exists lessons_unpublished_idx on lessons (id) where not published;
