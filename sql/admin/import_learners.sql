-- The learners of an imported file, whether they exist or not. lock.sql then locks each of them in this order, which is
-- that of make complete, so the two never wait for each other.
--
-- Parameters: none
-- Returns: one row for each learner
--   user_id  uuid  the learner, in ascending order

select distinct user_id
from imported
order by user_id;
