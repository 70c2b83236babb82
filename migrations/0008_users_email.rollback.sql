-- Repeatable, and in a users table that this service created only. No address is named: it would be in the logs.
do $$
declare
    learners regclass := to_regclass(quote_ident(current_schema()) || '.users');
    shared bigint;
begin
    if (obj_description(learners, 'pg_class') ~ 'created by progress-tracking') is not true
        or exists (
            select from pg_constraint
            inner join pg_attribute on conrelid = attrelid and conkey = array[attnum]
            where conrelid = learners and contype = 'u' and attname = 'email'
        )
    then
        return;
    end if;
    execute 'select count(*) from (select from ' || learners || ' group by email having count(email) > 1) as shared'
        into shared;
    if shared > 0 then
        raise exception using
            errcode = 'unique_violation',
            message = 'learners share an e-mail address, which the version before does not allow; such addresses: ' || shared,
            hint = 'The service has no use for the address: update users set email = null where email in '
            '(select email from users group by email having count(*) > 1).';
    end if;
    execute 'alter table ' || learners || ' add unique (email)';
end
$$;
