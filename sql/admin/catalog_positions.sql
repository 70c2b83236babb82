-- The positions of a catalog's courses, and of its modules outside of courses, if it is loaded beside what the database
-- has: what is there keeps its position, and what is new goes last. A module that leaves its course goes last too.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: a row per course and per module outside of courses
--   kind      text     course or module
--   id        text
--   position  integer
-- Buffers: 10 light, 10 heavy

with last_course as (
    select coalesce(max(position), 0) as position
    from courses
),

last_module as (
    select coalesce(max(position), 0) as position
    from modules
    where course_id is null
)

select
    'course' as kind,
    given.id::text as id,
    coalesce(
        courses.position,
        -- What is new keeps its order in the catalog.
        (last_course.position + row_number() over (partition by courses.id is null order by given.position))::integer
    ) as position
from jsonb_to_recordset(:'catalog'::jsonb -> 'courses') as given (id uuid, position integer)
cross join last_course
left join courses on given.id = courses.id
union all
select
    'module' as kind,
    given.id::text as id,
    coalesce(
        modules.position,
        (last_module.position + row_number() over (partition by modules.id is null order by given.position))::integer
    ) as position
from
    jsonb_to_recordset(:'catalog'::jsonb -> 'modules')
        as given (id uuid, course_id uuid, position integer)
cross join last_module
left join modules on given.id = modules.id and modules.course_id is null
where given.course_id is null;
