-- Deletes a learner's completion of a lesson, if the learner may take the lesson. Otherwise its row says why not. A
-- lesson that is not completed stays so. It runs under lock.sql.
--
-- Parameters:
--   user_id    uuid  the learner
--   lesson_id  uuid  the lesson
-- Returns: one row
--   enrolled    boolean  the learner has access of any kind
--   known       boolean  there is such a lesson
--   available   boolean  it is published, and the learner may take it
--   removed_at  text     the completedAt that was deleted; null if there was none
-- Buffers: 20 light, 20 heavy

with accessible as materialized (
    select lesson_id
    from accessible_lessons
    where user_id = :'user_id'::uuid and lesson_id = :'lesson_id'::uuid
),

learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

unmarked as (
    delete from progress
    using accessible
    where progress.user_id = :'user_id'::uuid and progress.lesson_id = accessible.lesson_id
    returning progress.completed_at
)

select
    learner.enrolled,
    lessons.id is not null as known,
    accessible.lesson_id is not null as available,
    (
        select to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
        from unmarked
    ) as removed_at
from learner
left join lessons on lessons.id = :'lesson_id'::uuid
left join accessible on lessons.id = accessible.lesson_id;
