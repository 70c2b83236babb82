-- Whether a learner may mark a lesson as completed: the learner may take the lesson, and it is not locked. If so,
-- mark.sql stores the mark, in a later trip of the same transaction. It runs under lock.sql, so it reads the latest
-- rows of progress.
--
-- The question and the upsert are two statements, because Citus sends a statement with an insert inside of a CTE to
-- every node.
--
-- Parameters:
--   lesson_id  uuid  the lesson
--   user_id    uuid  the learner
-- Returns: one row
--   enrolled       boolean  the learner has access of any kind
--   known          boolean  there is such a lesson
--   available      boolean  it is published, and the learner may take it
--   prerequisites  text[]   what must be completed first, in catalog order; empty: it is not locked
--   was_completed  boolean  the learner has completed it already
--   finishes       boolean  every other published lesson of its module is completed; null if it is not available
-- Buffers: 25 light, 25 heavy

-- Without `materialized`, PostgreSQL might begin with every lesson of the catalog.
with needed as materialized (
    select prerequisite_id
    from published_prerequisites as need
    where
        lesson_id = :'lesson_id'::uuid
        -- A completed lesson is not locked, even if its prerequisites have changed since.
        and not exists (
            select from progress
            where user_id = :'user_id'::uuid and lesson_id in (need.prerequisite_id, :'lesson_id'::uuid)
        )
),

due as (
    select
        prerequisite.id,
        prerequisite.position,
        module.id as module_id,
        module.position as module_position,
        course.id as course_id,
        course.position as course_position
    from needed
    inner join lessons as prerequisite on needed.prerequisite_id = prerequisite.id
    inner join modules as module on prerequisite.module_id = module.id
    left join courses as course on module.course_id = course.id
),

accessible as materialized (
    select
        lesson_id,
        module_id
    from accessible_lessons
    where user_id = :'user_id'::uuid and lesson_id = :'lesson_id'::uuid
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
    (
        select count(*) > 0
        from progress
        where user_id = :'user_id'::uuid and lesson_id = :'lesson_id'::uuid
    ) as was_completed,
    -- Most marks finish no module. So the search ends at the first lesson that is not completed, and each lesson is
    -- looked up by its key. Each `offset 0` keeps its `not exists` a subquery of its own. Otherwise PostgreSQL might
    -- make a join, and read everything that the learner has completed.
    case
        when accessible.lesson_id is not null
            then not exists (
                select
                from lessons as other
                where
                    other.module_id = accessible.module_id
                    and other.published
                    and other.id != :'lesson_id'::uuid
                    and not exists (
                        select
                        from progress
                        where progress.user_id = :'user_id'::uuid and progress.lesson_id = other.id
                        offset 0 -- noqa: AM09
                    )
                offset 0 -- noqa: AM09
            )
    end as finishes
from (select :'lesson_id'::uuid as id) as asked
left join lessons on asked.id = lessons.id
left join accessible on lessons.id = accessible.lesson_id;
