-- The lesson to continue with: the first available lesson after the most recently completed one, in catalog order. If
-- there is none after it, the first available lesson of the catalog.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     lessonId, moduleId; both null when nothing is left
-- Buffers: 40 light, 50 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

completed as materialized (
    select lesson_id
    from progress
    where user_id = :'user_id'::uuid
),

-- Each `not in` becomes a hash table that is built once, under a generic plan and under a custom plan. A join might
-- become a nested loop.
locked as materialized (
    select
        lesson_id,
        prerequisite_id
    from published_prerequisites
    where
        lesson_id not in (select lesson_id from completed)
        and prerequisite_id not in (select lesson_id from completed)
),

-- The modules, each with its place in catalog order.
placed as materialized (
    select
        module.id,
        row_number() over (order by course.position nulls first, course.id, module.position, module.id) as place
    from modules as module
    left join courses as course on module.course_id = course.id
),

-- The completed lessons and the available ones, read from the catalog once. A completed lesson is never locked.
unlocked as materialized (
    select
        placed.place,
        lesson.position,
        lesson.lesson_id,
        lesson.module_id,
        progress.completed_at
    from accessible_lessons as lesson
    inner join placed on lesson.module_id = placed.id
    left join progress on lesson.user_id = progress.user_id and lesson.lesson_id = progress.lesson_id
    where
        lesson.user_id = :'user_id'::uuid
        and lesson.lesson_id not in (select lesson_id from locked)
),

latest as (
    select
        place,
        position,
        lesson_id
    from unlocked
    where completed_at is not null
    order by
        -- By the time as an answer shows it: rows that other programs wrote may have microseconds.
        date_trunc('milliseconds', completed_at) desc,
        place desc, position desc, lesson_id desc
    limit 1
),

next as (
    select
        lesson_id,
        module_id
    from unlocked
    where completed_at is null
    order by
        -- First the lessons after the latest completed one, then the others: with desc, true sorts before false. While
        -- nothing is completed, the comparison is null for every lesson, so it does not change the order.
        (place, position, lesson_id) > (
            select
                place,
                position,
                lesson_id
            from latest
        ) desc,
        place asc, position asc, lesson_id asc
    limit 1
)

select
    learner.enrolled,
    json_build_object('lessonId', next.lesson_id, 'moduleId', next.module_id) as answer
from learner
left join next on true;
