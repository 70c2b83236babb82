-- The key of the header Learner-Tag, for a site whose settings hold no secret of the sessions. The key is random, and
-- the same for all hosts.

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
        and relname in ('learner_tag_keys')
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

create table if not exists learner_tag_keys (
    -- There is one row: with another key every learner would have another tag.
    id integer primary key default 1 check (id = 1),
    key text not null default gen_random_uuid()::text || gen_random_uuid()::text,
    created_at timestamptz not null default now()
);

comment on table learner_tag_keys is 'the key of Learner-Tag (created by progress-tracking)';

insert into learner_tag_keys default values
on conflict do nothing;
