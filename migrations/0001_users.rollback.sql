-- drops data: users, unless the site brought the table itself
do $$
begin
    if obj_description(to_regclass('users'), 'pg_class') = 'learners (created by progress-tracking)' then
        drop table users;
    end if;
end
$$;
