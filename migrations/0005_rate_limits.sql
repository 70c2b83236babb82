-- The write limit: when each learner last wrote. Unlogged: a crash of the database may forget a window, and a hit costs
-- no wait for the disk. Room in each page keeps an update on its page, so that the index is left alone (HOT); rows that
-- come and go are swept up by their number, not by their share.
create unlogged table if not exists rate_limits (
    key text primary key,
    -- The latest, oldest first; as many as the limit allows in a window.
    hits timestamptz array not null,
    -- When the last of them leaves the window: after that, the row is of no use.
    expires_at timestamptz not null
) with (fillfactor = 70, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
