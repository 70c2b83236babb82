-- How many events wait, and how many were given up: for the metrics of the deliverer, and for `make events`. It counts
-- every row: a million waiting events take about a tenth of a second.
--
-- Parameters: none
-- Returns: one row
--   waiting         bigint            events that are not delivered and not given up
--   oldest_seconds  double precision  the age of the oldest of them; null if there is none
--   given_up        bigint            events that were given up
-- Buffers: 20 light, 20 heavy

select
    count(*) as waiting,
    extract(epoch from statement_timestamp() - min(created_at))::double precision as oldest_seconds,
    (
        select count(*)
        from events as ended
        where ended.given_up_at is not null
    ) as given_up
from events
where delivered_at is null and given_up_at is null;
