-- drops data: which Checkout Sessions paid for courses, and their refunds and disputes; access stays as it is
do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['paid_courses', 'stripe_payments', 'stripe_reversals'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if relation is not null and (obj_description(relation, 'pg_class') ~ 'created by progress-tracking') is not true then
            raise exception using
                errcode = 'wrong_object_type',
                message = 'nothing was dropped: no comment says that this service created ' || relation,
                hint = case
                    when name = 'paid_courses' then
                        'If the comment was lost: comment on view ' || relation
                        || ' is ''created by progress-tracking''. If the view is the site''s own: '
                    else
                        'If an earlier version did, make migrate adds the comment; if it was lost: comment on table '
                        || relation || ' is ''created by progress-tracking''. If the table is the site''s own: '
                end
                || 'docs/operating.md, "A schema of its own".';
        end if;
    end loop;

    foreach name in array array['paid_courses', 'stripe_payments', 'stripe_reversals'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if relation is not null then
            execute 'drop ' || case when name = 'paid_courses' then 'view ' else 'table ' end || relation;
        end if;
    end loop;
end
$$;
