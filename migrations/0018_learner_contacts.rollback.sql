do $$
declare
    relation regclass := to_regclass(quote_ident(current_schema()) || '.learner_contacts');
begin
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
end
$$;
