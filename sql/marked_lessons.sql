-- How the modules and courses of many marked lessons, and all lessons together, stand for a learner: the counts of the
-- answer to many marks. It runs after mark_lessons.sql, in the same transaction and under lock.sql. So it counts this
-- write and every write answered before.
--
-- Parameters:
--   user_id     uuid    the learner
--   lesson_ids  uuid[]  the lessons of the list, marked or not
-- Returns: one row
--   modules  json  the modules of the marked lessons, in catalog order
--   courses  json  the courses of the marked lessons, in catalog order
--   overall  json  percent, completedCount, totalCount
-- Buffers: 40 light, 45 heavy

with completed as materialized (
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

-- A listed lesson was marked if it is completed and accessible now.
marked as materialized (
    select lesson_id
    from completed
    where lesson_id in (select unnest(:'lesson_ids'::uuid[]))
),

counts as materialized (
    select
        module_id,
        course_id,
        count(*) filter (where lesson_id in (select lesson_id from completed)) as completed_count,
        count(*) filter (where lesson_id not in (select lesson_id from locked)) as total_count,
        count(*) filter (where lesson_id in (select lesson_id from marked)) > 0 as has_marked
    from accessible_lessons
    where user_id = :'user_id'::uuid
    group by module_id, course_id
),

course_counts as (
    select
        course_id,
        sum(completed_count)::bigint as completed_count,
        sum(total_count)::bigint as total_count
    from counts
    group by course_id
    having bool_or(has_marked)
),

overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count
    from counts
)

select
    (
        select
            coalesce(
                json_agg(
                    json_build_object(
                        'moduleId', module.id,
                        'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                        'completedCount', completed_count,
                        'totalCount', total_count
                    )
                    order by course.position nulls first, course.id, module.position, module.id
                ),
                '[]'
            )
        from counts
        inner join modules as module on counts.module_id = module.id
        left join courses as course on module.course_id = course.id
        where has_marked
    ) as modules,
    (
        select
            coalesce(
                json_agg(
                    json_build_object(
                        'courseId', course.id,
                        'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                        'completedCount', completed_count,
                        'totalCount', total_count
                    )
                    order by course.position, course.id
                ),
                '[]'
            )
        from course_counts
        inner join courses as course on course_counts.course_id = course.id
    ) as courses,
    json_build_object(
        'percent', coalesce(100 * overall.completed_count / nullif(overall.total_count, 0), 0),
        'completedCount', overall.completed_count,
        'totalCount', overall.total_count
    ) as overall
from overall;
