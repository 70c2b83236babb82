-- Deletes the events of a learner. Run it after admin/erase.sql.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   table_name  text    the table
--   row_count   bigint  how many rows it had of the learner
-- Buffers: 20 light, 20 heavy

with removed_events as (
    delete from events
    where user_id = :'user_id'::uuid
    returning id
)

select
    'events' as table_name,
    count(*) as row_count
from removed_events;
