-- Counts a write against the write limit, unless the window is full. The clock of the database decides. Concurrent hits
-- on one key wait for each other at the row of the key; each then sees what the hit before it stored.
--
-- It also deletes up to two expired rows: those with the next keys. Keys are random, so in time every expired row is
-- the neighbour of some hit. Each hit rewrites all times of its key, 8 bytes for each write that the window allows.
-- Above about 2 kB PostgreSQL stores them out of line (TOAST).
--
-- Parameters:
--   key     text     the learner who writes
--   window  integer  the length of the window in seconds
--   amount  integer  how many writes the window allows
-- Returns: one row, none if the window is full
--   key  text  as given
-- Buffers: 15 light, 10 heavy

with expired as (
    delete from rate_limits
    where
        -- PostgreSQL makes the array once. It may run the subquery of an `in` for each row: each run would then find
        -- two more rows to delete.
        key = any(array(
            select neighbour.key
            from rate_limits as neighbour
            where neighbour.key > :'key'::text
            order by neighbour.key
            limit 2
            -- A locked row is in use, so it is not expired. To wait for it could end in a deadlock.
            for update skip locked
        ))
        and expires_at < now()
)

insert into rate_limits as counted (key, hits, expires_at)
values (
    :'key'::text,
    array[clock_timestamp()],
    clock_timestamp() + make_interval(secs => :'window'::integer)
)
-- The hits are in the order of time, and at most `amount` of them are kept. So the window is full while the first of
-- the last `amount` hits is in it; that hit is null if there are fewer. Here clock_timestamp() is read after the wait
-- for the row. The times of `excluded` were read before that wait: a row with such an expires_at would be deleted while
-- its latest hit still counts.
on conflict (key) do update
    set
        hits = (counted.hits || clock_timestamp())[cardinality(counted.hits) + 2 - :'amount'::integer:],
        expires_at = clock_timestamp() + make_interval(secs => :'window'::integer)
    where coalesce(
        counted.hits[cardinality(counted.hits) + 1 - :'amount'::integer]
        <= clock_timestamp() - make_interval(secs => :'window'::integer),
        true
    )
returning counted.key;
