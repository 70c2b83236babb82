-- drops data: users, unless the site brought the table itself
do $$
declare
    learners regclass := to_regclass(quote_ident(current_schema()) || '.users');
begin
    if obj_description(learners, 'pg_class') ~ 'created by progress-tracking' then
        execute 'drop table ' || learners;
    end if;
end
$$;
