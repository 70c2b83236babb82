-- Learners. A site that already has a users table keeps it: it is checked and left alone.
do $$
begin
    if to_regclass('users') is null then
        create table users (
            id uuid primary key,
            email text unique,
            name text,
            created_at timestamptz not null default now()
        );
        -- The rollback drops the table only where this comment says that it is ours.
        comment on table users is 'learners (created by progress-tracking)';
    elsif not exists (
        select from pg_constraint
        inner join pg_attribute on attrelid = conrelid and conkey = array[attnum]
        where conrelid = 'users'::regclass and contype = 'p' and attname = 'id' and atttypid = 'uuid'::regtype
    ) then
        raise exception using
            errcode = 'invalid_table_definition',
            message = 'the users table that is already here must have "id uuid" as its primary key',
            hint = 'Give it one, or let the service live in a schema or database of its own and fill users there.';
    end if;
end
$$;
