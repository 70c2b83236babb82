-- Marks a lesson as completed by a learner, if the learner may take it and it is not locked. Otherwise its row says why
-- not. A second mark keeps completed_at. It runs under lock.sql, so it reads the latest rows of progress.
--
-- Parameters:
--   lesson_id     uuid         the lesson
--   user_id       uuid         the learner
--   completed_at  timestamptz  when it was completed; null or a time in the future means now
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   known          boolean  there is such a lesson
--   available      boolean  it is published, and the learner may take it
--   prerequisites  text[]   what must be completed first, in catalog order; empty: it was marked
--   was_completed  boolean  the learner had completed it before
-- Buffers: 25 light, 25 heavy

with due as (
    select
        prerequisite.id,
        prerequisite.position,
        module.id as module_id,
        module.position as module_position,
        course.id as course_id,
        course.position as course_position
    from published_prerequisites
    inner join lessons as prerequisite on published_prerequisites.prerequisite_id = prerequisite.id
    inner join modules as module on prerequisite.module_id = module.id
    left join courses as course on module.course_id = course.id
    where
        published_prerequisites.lesson_id = :'lesson_id'::uuid
        -- A completed lesson is not locked, even if its prerequisites have changed since.
        and not exists (
            select from progress
            where user_id = :'user_id'::uuid and lesson_id in (prerequisite.id, :'lesson_id'::uuid)
        )
),

accessible as materialized (
    select lesson_id
    from accessible_lessons
    where user_id = :'user_id'::uuid and lesson_id = :'lesson_id'::uuid
),

marked as (
    insert into progress (user_id, lesson_id, completed_at, updated_at)
    select
        :'user_id'::uuid as user_id,
        lesson_id,
        -- The time of this statement: the transaction began before the wait for the lock. least() ignores a null.
        date_trunc('milliseconds', least(:'completed_at'::timestamptz, statement_timestamp())) as completed_at,
        statement_timestamp() as updated_at
    from accessible
    where not exists (select from due)
    on conflict (user_id, lesson_id) do update set updated_at = excluded.updated_at
)

select
    -- Who may take the lesson is enrolled. So the view is read a second time only for a refused mark.
    accessible.lesson_id is not null or (
        select count(*) > 0
        from learner_access
        where user_id = :'user_id'::uuid
    ) as enrolled,
    lessons.id is not null as known,
    accessible.lesson_id is not null as available,
    array(
        select id::text
        from due
        order by course_position nulls first, course_id, module_position, module_id, position, id
    ) as prerequisites,
    -- The statement reads the table as it was before the insert.
    (
        select count(*) > 0
        from progress
        where user_id = :'user_id'::uuid and lesson_id = :'lesson_id'::uuid
    ) as was_completed
from (select :'lesson_id'::uuid as id) as asked
left join lessons on asked.id = lessons.id
left join accessible on lessons.id = accessible.lesson_id;
