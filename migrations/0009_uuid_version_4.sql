-- The API accepts only UUIDs of version 4 (RFC 9562), by UUID4 in app/formats.py. A lesson with another id would count,
-- but nobody could mark it. 0007 has checked that both tables are this service's, in the first schema of the
-- search_path. They are as small as a catalog, so checking every row takes a moment only.
do $$
declare
    version_4 constant text := '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$';
    others text;
    name text;
begin
    select string_agg(kind || ' ' || id, ', ' order by number) filter (where number <= 10)
        || case when count(*) > 10 then ' and ' || count(*) - 10 || ' more' else '' end
    into others
    from (
        select
            kind,
            id,
            row_number() over (order by kind desc, id) as number
        from (
            select 'module' as kind, id from modules
            union all
            select 'lesson' as kind, id from lessons
        ) as catalog
        where id::text !~ version_4
    ) as refused;
    if others is not null then
        raise exception using
            errcode = 'check_violation',
            message = 'ids that are not UUIDs of version 4: ' || others,
            hint = 'The API refuses them. Give each another id, for instance gen_random_uuid(), or delete the row.';
    end if;
    foreach name in array array['modules', 'lessons'] loop
        if not exists (
            select from pg_constraint where conrelid = to_regclass(name) and conname = name || '_id_version_4'
        ) then
            execute 'alter table ' || name || ' add constraint ' || name || '_id_version_4 check (id::text ~ '
                || quote_literal(version_4) || ')';
        end if;
    end loop;
end
$$;
