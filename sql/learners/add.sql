-- Adds a learner. It writes the id alone, because a site's own users table may have no other column.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row, none if the learner exists already
--   id  uuid  the learner
-- Buffers: 15 light, 15 heavy

insert into users (id)
values (:'user_id'::uuid)
on conflict do nothing
returning id;
