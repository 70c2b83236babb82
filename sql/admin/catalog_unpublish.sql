-- Unpublishes the lessons that a catalog does not have any more. Nothing is deleted: learners' completions stay.
--
-- Parameters:
--   catalog  jsonb  modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 13000 light, 13000 heavy

update lessons
set published = false
where
    published
    and id not in (
        select id
        from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given (id uuid)
    );
