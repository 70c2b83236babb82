-- The migrations that this database has, for the check at the start.
--
-- Parameters: none
-- Returns: a row per migration
--   migration_id  character varying  its file's name without .sql

select migration_id
from _yoyo_migration
order by migration_id;
