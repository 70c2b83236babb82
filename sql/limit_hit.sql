-- Counts a write against the write limit, unless the window is full: the clock that counts is this one. Concurrent hits
-- on one key wait for each other at its row, and see what the one before left. In passing it takes away rows that have
-- expired, two at the most: its neighbours, which are anybody's, since the keys are random. Each hit rewrites all times
-- of its key: 8 bytes for each that the window takes, out of line (TOAST) from about 2 kB on.
--
-- Parameters:
--   key     text     whose write it is
--   window  integer  the window's length in seconds
--   amount  integer  how many it takes
-- Returns: one row, none if the window is full
--   key  text  as given
-- Buffers: 15 light, 10 heavy

with expired as (
    delete from rate_limits
    where
        -- An array is made once. The subquery of an `in` may be run for each row, and would find two more each time.
        key = any(array(
            select neighbour.key
            from rate_limits as neighbour
            where neighbour.key > :'key'::text
            order by neighbour.key
            limit 2
            -- Who is busy is not expired, and waiting for them could end in a deadlock.
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
-- The hits are in order, and no more than `amount` are kept. So the window is full while the first of the last `amount`
-- is in it; null: there are fewer. clock_timestamp() is read after the wait for the row, excluded was before it: a row
-- that expired by that would be taken away with hits that still count.
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
