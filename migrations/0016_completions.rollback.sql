-- drops data: which modules and courses learners completed, and when
do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['module_completions', 'course_completions'] loop
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

    foreach name in array array['module_completions', 'course_completions'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if relation is not null then
            execute 'drop table ' || relation;
        end if;
    end loop;
end
$$;
