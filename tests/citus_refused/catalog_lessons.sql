-- An except directly below the insert. Citus refused it.

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
