-- The migrations that are applied to this database: for the check at the start and for make migration-status. Their
-- record is in the first schema of the search_path. A site that uses yoyo too has a table of the same name elsewhere.
--
-- Parameters: none
-- Returns: a row per migration
--   migration_id    character varying            the name of its file without .sql
--   applied_at_utc  timestamp without time zone  when it was applied
-- Buffers: 10 light, 10 heavy

select
    migration_id,
    applied_at_utc
from _yoyo_migration
where tableoid = to_regclass(quote_ident(current_schema()) || '._yoyo_migration');
