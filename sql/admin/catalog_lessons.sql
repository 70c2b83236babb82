-- Adds the lessons of a catalog, and changes or moves the lessons that differ from it.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

insert into lessons (id, module_id, title, position, published, is_free)
select
    id,
    module_id,
    title,
    position,
    published,
    is_free
from
    jsonb_to_recordset(:'catalog'::jsonb -> 'lessons')
        as given (
            id uuid, module_id uuid, title text, position integer, published boolean, is_free boolean
        )
where
    -- A lesson that is already as the catalog says is not written again.
    not exists (
        select from lessons
        where
            lessons.id = given.id
            and (lessons.module_id, lessons.title, lessons.position, lessons.published, lessons.is_free)
            = (given.module_id, given.title, given.position, given.published, given.is_free)
    )
on conflict (id) do update
    set
        (module_id, title, position, published, is_free)
        = (excluded.module_id, excluded.title, excluded.position, excluded.published, excluded.is_free);
