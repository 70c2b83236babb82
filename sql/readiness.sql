-- Whether the service can work with the server that answers: for the check at the start, for /readyz, and after an
-- error that a standby gives and others too.
--
-- Under row level security a statement passes over rows without a word, and the lock of a write then locks nothing.
-- Whether a policy lets every row pass cannot be seen here, so any policy counts.
--
-- Parameters:
--   tables  json  names of tables, as PostgreSQL reads them; what is no table that the role may read does not matter
-- Returns: one row
--   in_recovery  boolean  the server is a standby, which takes no writes
--   role         text     who the service is, quoted as an identifier where that is needed
--   filtered     text[]   those of the tables whose rows are filtered for this role, by row level security
-- Buffers: 60 light, 60 heavy

select
    pg_is_in_recovery() as in_recovery,
    quote_ident(current_user) as role,
    array(
        select to_regclass(name)::text
        from json_array_elements_text(:'tables'::json) as named (name)
        where has_any_column_privilege(to_regclass(name), 'select') and row_security_active(to_regclass(name))
        order by 1
    ) as filtered;
