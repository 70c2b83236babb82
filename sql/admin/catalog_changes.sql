-- What loading a catalog would do to each module and lesson, and how many learners have completed the lesson.
--
-- Parameters:
--   catalog  jsonb  modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: a row per module or lesson that would change, modules first, in the order of the catalog
--   kind         text     module or lesson
--   title        text     its title after the load
--   added        boolean  it is new
--   moved        boolean  it would move to another module
--   unpublished  boolean  it is published now, and would not be then
--   changed      boolean  its title or position, or whether it is published or free, would change
--   completions  bigint   how many learners have completed it
-- Buffers: 2405 light, 2405 heavy

with changes as (
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
    from jsonb_to_recordset(:'catalog'::jsonb -> 'modules') as given (id uuid, title text, position integer)
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
    from
        jsonb_to_recordset(:'catalog'::jsonb -> 'lessons')
            as given (
                id uuid, module_id uuid, title text, position integer, published boolean, is_free boolean
            )
    inner join jsonb_to_recordset(:'catalog'::jsonb -> 'modules') as module (id uuid, position integer)
        on given.module_id = module.id
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
    where
        lessons.published
        and lessons.id not in (
            select id
            from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given (id uuid)
        )
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
