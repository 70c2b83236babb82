-- The migrations that this database has, for the check at the start and for make migration-status.
--
-- Parameters: none
-- Returns: a row per migration
--   migration_id    character varying            its file's name without .sql
--   applied_at_utc  timestamp without time zone  when
-- Buffers: 10 light, 10 heavy

select
    migration_id,
    applied_at_utc
from _yoyo_migration;
