do $$
declare
    name text;
    relation regclass;
begin
    foreach name in array array['modules', 'lessons'] loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || name);
        if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
            execute 'alter table ' || relation || ' drop constraint if exists ' || name || '_id_version_4';
        end if;
    end loop;
end
$$;
