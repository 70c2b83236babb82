-- Adds the modules of a catalog, and changes the modules that differ from it.
--
-- Parameters:
--   catalog  jsonb  modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

insert into modules (id, title, position)
select
    id,
    title,
    position
from jsonb_to_recordset(:'catalog'::jsonb -> 'modules') as given (id uuid, title text, position integer)
where
    -- A module that is already as the catalog says is not written again.
    not exists (
        select from modules
        where modules.id = given.id and (modules.title, modules.position) = (given.title, given.position)
    )
on conflict (id) do update set (title, position) = (excluded.title, excluded.position);
