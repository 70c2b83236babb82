-- Makes the prerequisites of a catalog's lessons what the catalog says. A prerequisite that stays is not written again.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

with given as materialized (
    select
        lesson_id,
        prerequisite_id
    from jsonb_to_recordset(:'catalog'::jsonb -> 'prerequisites') as given (lesson_id uuid, prerequisite_id uuid)
),

removed as (
    delete from lesson_prerequisites
    where
        lesson_id in (
            select id
            from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given_lessons (id uuid)
        )
        and (lesson_id, prerequisite_id) not in (
            select
                lesson_id,
                prerequisite_id
            from given
        )
)

insert into lesson_prerequisites (lesson_id, prerequisite_id)
select
    lesson_id,
    prerequisite_id
from given
on conflict do nothing;
