-- How many hits the window of the write limit has, and how old the first one is: for the Retry-After of a refused
-- write.
--
-- Parameters:
--   amount  integer  how many writes the window allows
--   key     text     the learner who writes
--   window  integer  the length of the window in seconds
-- Returns: one row
--   age   double precision  seconds since the first hit in the window; null if there is none
--   hits  bigint            how many hits are in the window
-- Buffers: 10 light, 10 heavy

select
    extract(epoch from now() - min(hit))::double precision as age,
    count(*) as hits
from rate_limits
cross join unnest(rate_limits.hits[cardinality(rate_limits.hits) + 1 - :'amount'::integer:]) as hit
where key = :'key'::text and hit > now() - make_interval(secs => :'window'::integer);
