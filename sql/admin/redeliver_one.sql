-- Finds the event that `make redeliver EVENT=...` sends again, whatever became of it. It reads the whole table: an
-- index on webhook_id would slow every write for the sake of this task.
--
-- Parameters:
--   webhook_id  text  the header webhook-id
-- Returns: one row, none if there is no such event
--   user_id  text    the learner
--   id       bigint  the event's number
-- Buffers: 20 light, 20 heavy

select
    user_id::text as user_id,
    id
from events
where webhook_id = :'webhook_id'::text;
