-- The lessons of the database that a catalog does not have.
--
-- Parameters:
--   catalog  jsonb  courses, modules, lessons and prerequisites, as app/tasks/catalog.py flattens a catalog file
-- Returns: a row per lesson, by its id
--   id             text     the lesson
--   course_id      text     the course of its module, null without one
--   title          text
--   published      boolean
--   is_free        boolean
--   named          boolean  the catalog has the lesson's module, or the course that the module is in now
--   prerequisites  text[]   the lessons that it needs, by their ids
-- Buffers: 170 light, 170 heavy

with needs as (
    select
        lesson_id,
        array_agg(prerequisite_id::text order by prerequisite_id) as prerequisites
    from lesson_prerequisites
    group by lesson_id
)

select
    lessons.id::text as id,
    modules.course_id::text as course_id,
    lessons.title,
    lessons.published,
    lessons.is_free,
    modules.id in (
        select id
        from jsonb_to_recordset(:'catalog'::jsonb -> 'modules') as given_modules (id uuid)
    )
    or coalesce(
        modules.course_id in (
            select id
            from jsonb_to_recordset(:'catalog'::jsonb -> 'courses') as given_courses (id uuid)
        ),
        false
    ) as named,
    coalesce(needs.prerequisites, '{}') as prerequisites
from lessons
inner join modules on lessons.module_id = modules.id
left join needs on lessons.id = needs.lesson_id
where
    lessons.id not in (
        select id
        from jsonb_to_recordset(:'catalog'::jsonb -> 'lessons') as given_lessons (id uuid)
    )
order by lessons.id;
