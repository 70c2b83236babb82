-- Whether the service can work with the server that answers: for the check at the start, for /readyz, and after an
-- error that a standby gives and others too.
--
-- Parameters: none
-- Returns: one row
--   in_recovery  boolean  the server is a standby, which takes no writes
-- Buffers: 0 light, 0 heavy

select pg_is_in_recovery() as in_recovery;
