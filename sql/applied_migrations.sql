-- The migrations that this database has, for the check at the start and for make migration-status. They are recorded in
-- the first schema of the search_path: a site that uses yoyo too has a table of the same name in another one.
--
-- Parameters: none
-- Returns: a row per migration
--   migration_id    character varying            its file's name without .sql
--   applied_at_utc  timestamp without time zone  when
-- Buffers: 10 light, 10 heavy

select
    migration_id,
    applied_at_utc
from _yoyo_migration
where tableoid = to_regclass(quote_ident(current_schema()) || '._yoyo_migration');
