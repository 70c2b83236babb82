do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['accessible_lessons', 'learner_access', 'published_prerequisites'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
            execute 'drop view ' || relation;
        elsif relation is not null then
            raise exception using
                errcode = 'wrong_object_type',
                message = 'nothing was dropped: no comment says that this service created ' || relation,
                hint = 'If the comment was lost: comment on view ' || relation
                || ' is ''created by progress-tracking''. If the view is the site''s own: '
                'docs/operating.md, "A schema of its own".';
        end if;
    end loop;
end
$$;

do $$
declare
    relation regclass := to_regclass(quote_ident(current_schema()) || '.lessons');
begin
    if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
        execute 'drop index if exists ' || quote_ident(current_schema()) || '.lessons_unpublished_idx';
    end if;
end
$$;
