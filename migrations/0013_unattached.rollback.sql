do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['stripe_subscriptions', 'stripe_checkouts', 'stripe_customers'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
            execute 'drop index if exists ' || quote_ident(current_schema()) || '.' || name || '_unattached_idx';
        end if;
    end loop;
end
$$;
