-- Unpublishes the lessons that loading a catalog leaves out. Nothing is deleted: learners' completions stay.
--
-- Parameters:
--   catalog  jsonb  in left_out the ids of the lessons, as app/tasks/catalog.py finds them by catalog_outside.sql
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

update lessons
set published = false
where
    id in (
        select id::uuid
        from jsonb_array_elements_text(:'catalog'::jsonb -> 'left_out') as given (id)
    );
