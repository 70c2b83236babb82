-- Adds the courses of a catalog, and changes the courses that differ from it.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

insert into courses (id, title, position)
select
    id,
    title,
    position
from jsonb_to_recordset(:'catalog'::jsonb -> 'courses') as given (id uuid, title text, position integer)
where
    -- A course that is already as the catalog says is not written again.
    not exists (
        select from courses
        where courses.id = given.id and (courses.title, courses.position) = (given.title, given.position)
    )
on conflict (id) do update set (title, position) = (excluded.title, excluded.position);
