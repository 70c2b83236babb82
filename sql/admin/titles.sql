-- The titles of courses, modules and lessons, for make progress: also of those that the learner has no access to.
--
-- Parameters:
--   ids  uuid[]  their ids
-- Returns: a row for each that is there
--   id     text
--   title  text
-- Buffers: 15 light, 15 heavy

select
    id::text as id,
    title
from courses
where id = any(:'ids'::uuid[])
union all
select
    id::text as id,
    title
from modules
where id = any(:'ids'::uuid[])
union all
select
    id::text as id,
    title
from lessons
where id = any(:'ids'::uuid[]);
