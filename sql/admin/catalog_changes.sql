-- What loading a catalog would do to each course, module and lesson, and how many completions are on what it would move
-- or unpublish.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file, and
--                   left_out: the ids of the lessons that loading it leaves out
-- Returns: a row per course, module or lesson that would change: courses, modules, lessons, each in the order of the
--          catalog, and then the lessons that are left out
--   kind         text     course, module or lesson
--   title        text     its title after the load
--   added        boolean  it is new
--   moved        boolean  it would move: a module to another course, or out of its course, a lesson to another module
--   unpublished  boolean  it is published now, and would not be then
--   changed      boolean  its title or position, or whether it is published or free, would change
--   completions  bigint   how many completions there are of the lesson, or of all lessons that are in the module now
-- Buffers: 20 light, 20 heavy

with given_courses as (
    select
        id,
        title,
        position
    from jsonb_to_recordset(:'catalog'::jsonb -> 'courses') as given (id uuid, title text, position integer)
),

given_modules as (
    select
        given.id,
        given.course_id,
        given.title,
        given.position,
        given_courses.position as course_position
    from
        jsonb_to_recordset(:'catalog'::jsonb -> 'modules')
            as given (id uuid, course_id uuid, title text, position integer)
    left join given_courses on given.course_id = given_courses.id
),

changes as materialized (
    select
        1 as rank,
        'course' as kind,
        given_courses.title,
        given_courses.position as course_position,
        0 as module_position,
        0 as position,
        courses.id is null as added,
        false as moved,
        false as unpublished,
        courses.title != given_courses.title or courses.position != given_courses.position as changed,
        null::uuid as module_id,
        null::uuid as lesson_id
    from given_courses
    left join courses on given_courses.id = courses.id
    union all
    select
        2 as rank,
        'module' as kind,
        given_modules.title,
        given_modules.course_position,
        given_modules.position as module_position,
        0 as position,
        modules.id is null as added,
        modules.id is not null and (modules.course_id is distinct from given_modules.course_id) as moved,
        false as unpublished,
        modules.title != given_modules.title or modules.position != given_modules.position as changed,
        modules.id as module_id,
        null as lesson_id
    from given_modules
    left join modules on given_modules.id = modules.id
    union all
    select
        3 as rank,
        'lesson' as kind,
        given.title,
        given_modules.course_position,
        given_modules.position as module_position,
        given.position,
        lessons.id is null as added,
        lessons.module_id != given.module_id as moved,
        lessons.published and not given.published as unpublished,
        lessons.title != given.title
        or lessons.position != given.position
        or lessons.published != given.published
        or lessons.is_free != given.is_free as changed,
        null as module_id,
        lessons.id as lesson_id
    from
        jsonb_to_recordset(:'catalog'::jsonb -> 'lessons')
            as given (
                id uuid, module_id uuid, title text, position integer, published boolean, is_free boolean
            )
    inner join given_modules on given.module_id = given_modules.id
    left join lessons on given.id = lessons.id
    union all
    select
        4 as rank,
        'lesson' as kind,
        lessons.title,
        null as course_position,
        0 as module_position,
        lessons.position,
        false as added,
        false as moved,
        true as unpublished,
        false as changed,
        null as module_id,
        lessons.id as lesson_id
    from jsonb_array_elements_text(:'catalog'::jsonb -> 'left_out') as given (id)
    inner join lessons on given.id::uuid = lessons.id
),

-- The lessons whose completions are asked for: those that change, and those of the modules that move.
counted as materialized (
    select
        lesson_id,
        count(*) as completions
    from progress
    where
        lesson_id in (
            select lesson_id
            from changes
            where lesson_id is not null and (added or moved or unpublished or changed)
            union all
            select lessons.id
            from changes
            inner join lessons on changes.module_id = lessons.module_id
            where changes.moved
        )
    group by lesson_id
),

counted_modules as (
    select
        lessons.module_id,
        sum(counted.completions)::bigint as completions
    from counted
    inner join lessons on counted.lesson_id = lessons.id
    group by lessons.module_id
)

select
    changes.kind,
    changes.title,
    changes.added,
    coalesce(changes.moved, false) as moved,
    coalesce(changes.unpublished, false) as unpublished,
    coalesce(changes.changed, false) as changed,
    coalesce(
        case
            when changes.kind = 'lesson' then counted.completions
            when changes.moved then counted_modules.completions
        end,
        0
    ) as completions
from changes
left join counted on changes.lesson_id = counted.lesson_id
left join counted_modules on changes.module_id = counted_modules.module_id
where changes.added or changes.moved or changes.unpublished or changes.changed
-- In catalog order, modules without a course come first.
order by
    changes.rank asc, changes.course_position asc nulls first, changes.module_position asc,
    changes.position asc, changes.title asc;
