-- The e-mail addresses and names of learners, for the export of what is stored of a learner. A site's own users table
-- may lack these columns, and the service reads nothing but the id there. So the statement of the export reads this
-- view, which is empty where users is the site's own.

-- "if not exists" may skip what an earlier run of this migration created before it was killed, and nothing else.
do $$
declare
    taken text;
begin
    select string_agg(relname, ', ' order by relname) into taken
    from pg_class
    inner join pg_namespace on relnamespace = pg_namespace.oid
    left join pg_index on pg_class.oid = indexrelid
    where
        nspname = current_schema()
        and relname in ('learner_contacts')
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

do $$
begin
    execute 'create or replace view learner_contacts with (security_invoker = true) as select '
        || case
            when obj_description(to_regclass('users'), 'pg_class') ~ 'created by progress-tracking'
                then 'id as user_id, email, name from users'
            else 'null::uuid as user_id, null::text as email, null::text as name where false'
        end;
end
$$;

comment on view learner_contacts is 'what is stored of a learner''s identity (created by progress-tracking)';
