-- The lesson to continue with: the first available lesson after the most recently completed one, in catalog order. If
-- there is none after it, the first available lesson of the catalog.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     lessonId, moduleId; both null when nothing is left
-- Buffers: 60 light, 70 heavy

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

latest as (
    select
        -- A module without a course comes first: no position is below this one, and no id of a course below this one.
        coalesce(lesson.course_position, -2147483648) as course_position,
        coalesce(lesson.course_id, '00000000-0000-0000-0000-000000000000') as course_id,
        lesson.module_position,
        lesson.module_id,
        lesson.position,
        lesson.lesson_id
    from accessible_lessons as lesson
    inner join progress on lesson.user_id = progress.user_id and lesson.lesson_id = progress.lesson_id
    where lesson.user_id = :'user_id'::uuid
    order by
        -- By the time as an answer shows it: rows that other programs wrote may have microseconds.
        date_trunc('milliseconds', progress.completed_at) desc,
        lesson.course_position desc nulls last, lesson.course_id desc,
        lesson.module_position desc, lesson.module_id desc, lesson.position desc, lesson.lesson_id desc
    limit 1
),

next as (
    select
        lesson.lesson_id,
        lesson.module_id
    from accessible_lessons as lesson
    left join latest on true
    where
        lesson.user_id = :'user_id'::uuid
        and lesson.lesson_id not in (select lesson_id from completed)
        and lesson.lesson_id not in (select lesson_id from locked)
    order by
        -- First the lessons after the latest completed one, then the others: with desc, true sorts before false. While
        -- nothing is completed, the comparison is null for every lesson, so it does not change the order.
        (
            coalesce(lesson.course_position, -2147483648),
            coalesce(lesson.course_id, '00000000-0000-0000-0000-000000000000'),
            lesson.module_position,
            lesson.module_id,
            lesson.position,
            lesson.lesson_id
        ) > (
            latest.course_position,
            latest.course_id,
            latest.module_position,
            latest.module_id,
            latest.position,
            latest.lesson_id
        ) desc,
        lesson.course_position asc nulls first, lesson.course_id asc,
        lesson.module_position asc, lesson.module_id asc, lesson.position asc, lesson.lesson_id asc
    limit 1
)

select
    learner.enrolled,
    json_build_object('lessonId', next.lesson_id, 'moduleId', next.module_id) as answer
from learner
left join next on true;
