-- How full the window of the write limit is, and since when, for the answer to a write that it did not take.
--
-- Parameters:
--   amount  integer  how many the window takes
--   key     text     whose write it was
--   window  integer  its length in seconds
-- Returns: one row
--   age   double precision  seconds since the first hit in the window; null if there is none
--   hits  bigint            how many there are
-- Buffers: 10 light, 10 heavy

select
    extract(epoch from now() - min(hit))::double precision as age,
    count(*) as hits
from rate_limits
cross join unnest(rate_limits.hits[cardinality(rate_limits.hits) + 1 - :'amount'::integer:]) as hit
where key = :'key'::text and hit > now() - make_interval(secs => :'window'::integer);
