-- How many prerequisites of its lessons loading a catalog would add and remove.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: one row
--   added    bigint
--   removed  bigint
-- Buffers: 10 light, 10 heavy

with given as (
    select
        lesson_id,
        prerequisite_id
    from jsonb_to_recordset(:'catalog'::jsonb -> 'prerequisites') as given (lesson_id uuid, prerequisite_id uuid)
),

present as (
    select
        lesson_id,
        prerequisite_id
    from lesson_prerequisites
    where lesson_id in (
        select id
        from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given_lessons (id uuid)
    )
)

select
    count(*) filter (where present.lesson_id is null) as added,
    count(*) filter (where given.lesson_id is null) as removed
from given
full join present
    on given.lesson_id = present.lesson_id and given.prerequisite_id = present.prerequisite_id;
