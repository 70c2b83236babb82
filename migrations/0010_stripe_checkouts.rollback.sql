-- drops data: which learner each Checkout Session named; access stays as it is
do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['stripe_checkouts'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
            execute 'drop table ' || relation;
        elsif relation is not null then
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

do $$
declare
    added record;
    relation regclass;
begin
    for added in
        select
            table_name,
            column_name
        from (
            values
            ('stripe_customers', 'checkout_session_id'),
            ('stripe_customers', 'session_created'),
            ('stripe_subscriptions', 'rivals'),
            ('stripe_subscriptions', 'items'),
            ('subscriptions', 'mirrored_period_end')
        ) as columns (table_name, column_name)
    loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || added.table_name);
        if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
            execute 'alter table ' || relation || ' drop column if exists ' || added.column_name;
        end if;
    end loop;
end
$$;
