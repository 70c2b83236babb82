-- drops data: courses, which modules are in them, and who has access to them
do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['courses', 'course_enrollments'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if relation is not null and (obj_description(relation, 'pg_class') ~ 'created by progress-tracking') is not true then
            raise exception using
                errcode = 'wrong_object_type',
                message = 'nothing was dropped: no comment says that this service created ' || relation,
                hint = 'If an earlier version did, make migrate adds the comment; if it was lost: comment on table '
                || relation || ' is ''created by progress-tracking''. If the table is the site''s own: '
                'docs/operating.md, "A schema of its own".';
        end if;
    end loop;
end
$$;

-- The views of the version before. A view cannot lose columns, so it is dropped and created anew, with its rights.
do $$
declare
    access regclass := to_regclass(quote_ident(current_schema()) || '.learner_access');
    granted record;
    grants text[];
    statement text;
begin
    if (obj_description(access, 'pg_class') ~ 'created by progress-tracking') is not true or not exists (
        select from pg_attribute
        where attrelid = access and attname = 'course_ids'
    ) then
        return;
    end if;

    for granted in
        select
            relname,
            privilege_type,
            grantee
        from pg_class
        cross join lateral aclexplode(relacl)
        where
            relnamespace = (select relnamespace from pg_class where oid = access)
            and relname in ('learner_access', 'accessible_lessons')
            and grantee != relowner
    loop
        grants := grants || ('grant ' || granted.privilege_type || ' on ' || granted.relname || ' to '
            || case when granted.grantee = 0 then 'public' else granted.grantee::regrole::text end);
    end loop;

    drop view accessible_lessons;
    drop view learner_access;

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

    foreach statement in array coalesce(grants, '{}') loop
        execute statement;
    end loop;
end
$$;

do $$
declare
    relation regclass;
begin
    relation := to_regclass(quote_ident(current_schema()) || '.modules');
    if
        obj_description(relation, 'pg_class') ~ 'created by progress-tracking'
        and to_regclass(quote_ident(current_schema()) || '.courses') is not null
    then
        execute 'alter table ' || relation || ' drop column if exists course_id';
    end if;
    relation := to_regclass(quote_ident(current_schema()) || '.course_enrollments');
    if relation is not null then
        execute 'drop table ' || relation;
    end if;
    relation := to_regclass(quote_ident(current_schema()) || '.courses');
    if relation is not null then
        execute 'drop table ' || relation;
    end if;
end
$$;
