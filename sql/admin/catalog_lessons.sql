-- Adds the lessons of a catalog, and changes or moves those that differ.
--
-- Parameters:
--   catalog  jsonb  modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

with given as (
    select
        id,
        module_id,
        title,
        position,
        published,
        is_free
    from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as lesson (
        id uuid, module_id uuid, title text, position integer, published boolean, is_free boolean
    )
)

insert into lessons (id, module_id, title, position, published, is_free)
select
    id,
    module_id,
    title,
    position,
    published,
    is_free
from given
-- What is as given already is not written again.
except
select
    id,
    module_id,
    title,
    position,
    published,
    is_free
from lessons
on conflict (id) do update
    set
        module_id = excluded.module_id,
        title = excluded.title,
        position = excluded.position,
        published = excluded.published,
        is_free = excluded.is_free;
