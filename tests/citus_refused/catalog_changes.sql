-- A correlated count over the completions of all learners. Citus refused it.

with given_modules as (
    select
        id,
        title,
        position
    from jsonb_to_recordset(:'catalog'::jsonb -> 'modules') as given (id uuid, title text, position integer)
),

given_lessons as (
    select
        id,
        module_id,
        title,
        position,
        published,
        is_free
    from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given (
        id uuid, module_id uuid, title text, position integer, published boolean, is_free boolean
    )
),

changes as (
    select
        'module' as kind,
        given.title,
        given.position as module_position,
        0 as position,
        modules.id is null as added,
        false as moved,
        false as unpublished,
        modules.title != given.title or modules.position != given.position as changed,
        null::uuid as lesson_id
    from given_modules as given
    left join modules on given.id = modules.id
    union all
    select
        'lesson' as kind,
        given.title,
        module.position as module_position,
        given.position,
        lessons.id is null as added,
        lessons.module_id != given.module_id as moved,
        lessons.published and not given.published as unpublished,
        lessons.title != given.title
        or lessons.position != given.position
        or lessons.published != given.published
        or lessons.is_free != given.is_free as changed,
        lessons.id as lesson_id
    from given_lessons as given
    inner join given_modules as module on given.module_id = module.id
    left join lessons on given.id = lessons.id
    union all
    select
        'lesson' as kind,
        lessons.title,
        null as module_position,
        lessons.position,
        false as added,
        false as moved,
        true as unpublished,
        false as changed,
        lessons.id as lesson_id
    from lessons
    where lessons.published and lessons.id not in (select id from given_lessons)
)

select
    kind,
    title,
    added,
    coalesce(moved, false) as moved,
    coalesce(unpublished, false) as unpublished,
    coalesce(changed, false) as changed,
    (
        select count(*)
        from progress
        where progress.lesson_id = changes.lesson_id
    ) as completions
from changes
where added or moved or unpublished or changed
order by kind desc, module_position asc, position asc, title asc;
