-- Two learners may have the same e-mail address, for instance if somebody deleted an account and created another one.
-- So email is no longer unique. This changes only a users table that this service created, and not a site's own table.
do $$
declare
    learners regclass := to_regclass(quote_ident(current_schema()) || '.users');
    name text;
begin
    if obj_description(learners, 'pg_class') ~ 'created by progress-tracking' then
        for name in
            select conname
            from pg_constraint
            inner join pg_attribute on conrelid = attrelid and conkey = array[attnum]
            where conrelid = learners and contype = 'u' and attname = 'email'
        loop
            execute 'alter table ' || learners || ' drop constraint ' || quote_ident(name);
        end loop;
    end if;
end
$$;
