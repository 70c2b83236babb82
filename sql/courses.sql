-- How far a learner is in each course with lessons that the learner may take, and overall.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     courses in catalog order, overall; each with lockedCount
-- Buffers: 40 light, 45 heavy

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

counts as materialized (
    select
        course_id,
        count(*) filter (where lesson_id in (select lesson_id from completed)) as completed_count,
        count(*) filter (where lesson_id not in (select lesson_id from locked)) as total_count,
        count(*) filter (where lesson_id in (select lesson_id from locked)) as locked_count
    from accessible_lessons
    where user_id = :'user_id'::uuid
    group by course_id
),

-- The lessons without a course are a row of counts too.
overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count,
        coalesce(sum(locked_count), 0)::bigint as locked_count
    from counts
)

select
    learner.enrolled,
    json_build_object(
        'courses',
        (
            select
                coalesce(
                    json_agg(
                        json_build_object(
                            'courseId', course.id,
                            'title', course.title,
                            'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
                            'completedCount', completed_count,
                            'totalCount', total_count,
                            'lockedCount', locked_count
                        )
                        order by course.position, course.id
                    ),
                    '[]'
                )
            from counts
            inner join courses as course on counts.course_id = course.id
        ),
        'overall',
        json_build_object(
            'percent', coalesce(100 * overall.completed_count / nullif(overall.total_count, 0), 0),
            'completedCount', overall.completed_count,
            'totalCount', overall.total_count,
            'lockedCount', overall.locked_count
        )
    ) as answer
from learner
cross join overall;
