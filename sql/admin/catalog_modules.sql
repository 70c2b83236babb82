-- Adds the modules of a catalog, and changes or moves the modules that differ from it. A module that the catalog has
-- outside of its courses leaves its course.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

insert into modules (id, course_id, title, position)
select
    id,
    course_id,
    title,
    position
from
    jsonb_to_recordset(:'catalog'::jsonb -> 'modules')
        as given (id uuid, course_id uuid, title text, position integer)
where
    -- A module that is already as the catalog says is not written again.
    not exists (
        select from modules
        where
            modules.id = given.id
            and modules.course_id is not distinct from given.course_id
            and (modules.title, modules.position) = (given.title, given.position)
    )
on conflict (id) do update
    set (course_id, title, position) = (excluded.course_id, excluded.title, excluded.position);
