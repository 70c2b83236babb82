-- Adds the modules of a catalog, and changes those that differ.
--
-- Parameters:
--   catalog  jsonb  modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

with given as (
    select
        id,
        title,
        position
    from jsonb_to_recordset(:'catalog'::jsonb -> 'modules') as module (id uuid, title text, position integer)
)

insert into modules (id, title, position)
select
    id,
    title,
    position
from given
-- What is as given already is not written again.
except
select
    id,
    title,
    position
from modules
on conflict (id) do update
    set
        title = excluded.title,
        position = excluded.position;
