-- An except directly below the insert. Citus refused it.

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
