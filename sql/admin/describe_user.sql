-- Sets the e-mail address and the name of a learner. A null leaves the stored value as it is.
--
-- Parameters:
--   email    text
--   name     text
--   user_id  uuid  the learner
-- Returns: nothing
-- Buffers: 25 light, 25 heavy

update users
set
    email = coalesce(:'email'::text, email),
    name = coalesce(:'name'::text, name)
where id = :'user_id'::uuid;
