-- Everything that a checklist shows: each lesson that the learner may take, its state, and what keeps it locked.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    text     JSON: modules and their lessons in catalog order, overall; each with lockedCount
-- Buffers: 55 light, 65 heavy

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

-- The modules, each with its place in catalog order.
placed as materialized (
    select
        module.id,
        module.course_id,
        module.title,
        row_number() over (order by course.position nulls first, course.id, module.position, module.id) as place
    from modules as module
    left join courses as course on module.course_id = course.id
),

-- A row for each lesson with prerequisites that the learner has not completed: these in catalog order, as text of a
-- JSON array. The lesson itself may be completed, and is not locked then.
--
-- `not in` becomes a hash table that is built once, under a generic plan and under a custom plan. A join might become a
-- nested loop. Without `materialized`, such a nested loop might compute these rows again for each lesson.
due as materialized (
    select
        needed.lesson_id,
        '["' || string_agg(
            prerequisite.id::text,
            '", "' order by placed.place, prerequisite.position, prerequisite.id
        ) || '"]' as prerequisites
    from published_prerequisites as needed
    inner join lessons as prerequisite on needed.prerequisite_id = prerequisite.id
    inner join placed on prerequisite.module_id = placed.id
    where needed.prerequisite_id not in (select lesson_id from completed)
    group by needed.lesson_id
),

-- The JSON of lessons and modules is put together as text. json_build_object() looks up the type of each value again
-- for each lesson, which costs a fifth of the statement. A title may have any character, so to_json() writes it.
counts as (
    select
        placed.place,
        count(progress.completed_at) as completed_count,
        count(*) - count(due.prerequisites) filter (where progress.completed_at is null) as total_count,
        count(due.prerequisites) filter (where progress.completed_at is null) as locked_count,
        string_agg(
            '{"lessonId" : "' || lesson.lesson_id || '", "title" : ' || to_json(lesson.title)::text
            || case
                when progress.completed_at is not null
                    then
                        ', "state" : "completed", "completedAt" : "'
                        || to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                        || '", "prerequisites" : []}'
                when due.prerequisites is null
                    then ', "state" : "available", "completedAt" : null, "prerequisites" : []}'
                else ', "state" : "locked", "completedAt" : null, "prerequisites" : ' || due.prerequisites || '}'
            end,
            ', ' order by lesson.position, lesson.lesson_id
        ) as lessons
    from accessible_lessons as lesson
    inner join placed on lesson.module_id = placed.id
    left join due on lesson.lesson_id = due.lesson_id
    left join progress on lesson.user_id = progress.user_id and lesson.lesson_id = progress.lesson_id
    where lesson.user_id = :'user_id'::uuid
    group by placed.place
),

overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count,
        coalesce(sum(locked_count), 0)::bigint as locked_count,
        string_agg(
            '{"moduleId" : "' || placed.id
            || '", "courseId" : ' || coalesce('"' || placed.course_id || '"', 'null')
            || ', "title" : ' || to_json(placed.title)::text
            || ', "percent" : ' || coalesce(100 * completed_count / nullif(total_count, 0), 0)
            || ', "completedCount" : ' || completed_count
            || ', "totalCount" : ' || total_count
            || ', "lockedCount" : ' || locked_count
            || ', "lessons" : [' || lessons || ']}',
            ', ' order by placed.place
        ) as modules
    from counts
    inner join placed on counts.place = placed.place
)

select
    learner.enrolled,
    '{"modules" : [' || coalesce(modules, '') || (
        '], "overall" : '
        || json_build_object(
            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
            'completedCount', completed_count,
            'totalCount', total_count,
            'lockedCount', locked_count
        )
        || '}'
    ) as answer
from learner
cross join overall;
