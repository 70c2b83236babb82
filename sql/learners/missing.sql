-- What a learner who was not enrolled has in the tables, for NEW_LEARNERS.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled      boolean  the learner has access of any kind now: another call may have added the learner meanwhile
--   is_user       boolean  the learner has a row in users
--   was_enrolled  boolean  the learner has a row in enrollments, which may have expired
-- Buffers: 15 light, 15 heavy

select
    exists(
        select from learner_access
        where user_id = :'user_id'::uuid
    ) as enrolled,
    exists(
        select from users
        where id = :'user_id'::uuid
    ) as is_user,
    exists(
        select from enrollments
        where user_id = :'user_id'::uuid
    ) as was_enrolled;
