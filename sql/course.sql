-- What the page of a course shows: how far a learner is in it, the lesson to go on with, and each of its lessons that
-- the learner may take. It reads the lessons of this course and what they need, by key, and not the whole
-- catalog. Of the other courses it may read the modules and the ids of unpublished lessons, which are few.
--
-- Parameters:
--   user_id    uuid  the learner
--   course_id  uuid  the course
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     courseId, title, percent, completedCount, totalCount, lockedCount, next, modules and their
--                      lessons in catalog order; null: no such course, or the learner may take none of its lessons
-- Buffers: 50 light, 60 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

module as materialized (
    select
        id,
        title
    from modules
    where course_id = :'course_id'::uuid
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. With `in`, or with a
-- condition on course_id, PostgreSQL might read the whole catalog.
accessible as materialized (
    select
        lesson_id,
        module_id,
        title,
        position,
        module_position
    from accessible_lessons
    where user_id = :'user_id'::uuid and module_id = any(array(select id from module))
),

prerequisites as materialized (
    select
        lesson_id,
        prerequisite_id
    from published_prerequisites
    where lesson_id = any(array(select lesson_id from accessible))
),

-- Of the course's lessons and of their prerequisites.
completed as materialized (
    select
        lesson_id,
        completed_at
    from progress
    where
        user_id = :'user_id'::uuid
        and lesson_id = any(array(
            select lesson_id from accessible
            union all
            select prerequisite_id from prerequisites
        ))
),

-- Each `not in` becomes a hash table that is built once, under a generic plan and under a custom plan. A join might
-- become a nested loop.
locked as materialized (
    select
        lesson_id,
        prerequisite_id
    from prerequisites
    where
        lesson_id not in (select lesson_id from completed)
        and prerequisite_id not in (select lesson_id from completed)
),

-- The lessons to complete first. They may be in other courses.
needed as materialized (
    select
        id,
        module_id,
        position
    from lessons
    where id = any(array(select prerequisite_id from locked))
),

needed_modules as materialized (
    select
        needed_module.id,
        needed_module.position,
        course.id as course_id,
        course.position as course_position
    from modules as needed_module
    left join courses as course on needed_module.course_id = course.id
    where needed_module.id = any(array(select module_id from needed))
),

-- A row for each locked lesson, with all that must be completed first, in catalog order. Without `materialized`, a
-- nested loop might compute these rows again for each lesson.
due as materialized (
    select
        locked.lesson_id,
        json_agg(
            needed.id
            order by
                needed_modules.course_position nulls first, needed_modules.course_id,
                needed_modules.position, needed_modules.id, needed.position, needed.id
        ) as prerequisites
    from locked
    inner join needed on locked.prerequisite_id = needed.id
    inner join needed_modules on needed.module_id = needed_modules.id
    group by locked.lesson_id
),

latest as (
    select
        accessible.module_position,
        accessible.module_id,
        accessible.position,
        accessible.lesson_id
    from accessible
    inner join completed on accessible.lesson_id = completed.lesson_id
    order by
        -- By the time as an answer shows it: rows that other programs wrote may have microseconds.
        date_trunc('milliseconds', completed.completed_at) desc,
        accessible.module_position desc, accessible.module_id desc, accessible.position desc, accessible.lesson_id desc
    limit 1
),

next as (
    select
        accessible.lesson_id,
        accessible.module_id
    from accessible
    left join latest on true
    where
        accessible.lesson_id not in (select lesson_id from completed)
        and accessible.lesson_id not in (select lesson_id from locked)
    order by
        -- First the lessons after the latest completed one, then the others: with desc, true sorts before false. While
        -- nothing is completed, the comparison is null for every lesson, so it does not change the order.
        (accessible.module_position, accessible.module_id, accessible.position, accessible.lesson_id)
        > (latest.module_position, latest.module_id, latest.position, latest.lesson_id) desc,
        accessible.module_position asc, accessible.module_id asc, accessible.position asc, accessible.lesson_id asc
    limit 1
),

counts as (
    select
        accessible.module_id,
        accessible.module_position,
        count(completed.completed_at) as completed_count,
        count(*) filter (where due.prerequisites is null) as total_count,
        count(due.prerequisites) as locked_count,
        json_agg(
            json_build_object(
                'lessonId', accessible.lesson_id,
                'title', accessible.title,
                'state', case
                    when completed.completed_at is not null then 'completed'
                    when due.prerequisites is null then 'available'
                    else 'locked'
                end,
                'completedAt', to_char(completed.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                'prerequisites', coalesce(due.prerequisites, '[]')
            )
            order by accessible.position, accessible.lesson_id
        ) as lessons
    from accessible
    left join due on accessible.lesson_id = due.lesson_id
    left join completed on accessible.lesson_id = completed.lesson_id
    group by accessible.module_id, accessible.module_position
),

-- There is no row if the learner may take none of the lessons.
overall as (
    select
        sum(completed_count)::bigint as completed_count,
        sum(total_count)::bigint as total_count,
        sum(locked_count)::bigint as locked_count,
        json_agg(
            json_build_object(
                'moduleId', counts.module_id,
                'title', module.title,
                'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                'completedCount', completed_count,
                'totalCount', total_count,
                'lockedCount', locked_count,
                'lessons', lessons
            )
            order by counts.module_position, counts.module_id
        ) as modules
    from counts
    inner join module on counts.module_id = module.id
    having count(*) > 0
)

select
    learner.enrolled,
    case
        when overall.modules is not null
            then json_build_object(
                'courseId', course.id,
                'title', course.title,
                'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                'completedCount', completed_count,
                'totalCount', total_count,
                'lockedCount', locked_count,
                'next', json_build_object('lessonId', next.lesson_id, 'moduleId', next.module_id),
                'modules', overall.modules
            )
    end as answer
from learner
left join overall on true
left join courses as course on course.id = :'course_id'::uuid
left join next on true;
