-- Unpublishes the lessons that a catalog no longer has. Nothing is deleted: their completions stay.
--
-- Parameters:
--   catalog  jsonb  modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 11635 light, 11620 heavy

update lessons
set published = false
where
    published
    and id not in (
        select id
        from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given (id uuid)
    );
