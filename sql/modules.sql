-- How far a learner is in each module with lessons that the learner may take, and overall.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     modules in catalog order, overall
-- Buffers: 38 light, 43 heavy

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
        module_id,
        count(*) filter (where lesson_id in (select lesson_id from completed)) as completed_count,
        count(*) filter (where lesson_id not in (select lesson_id from locked)) as total_count
    from accessible_lessons
    where user_id = :'user_id'::uuid
    group by module_id
),

overall as (
    select
        coalesce(sum(completed_count), 0)::bigint as completed_count,
        coalesce(sum(total_count), 0)::bigint as total_count
    from counts
)

select
    learner.enrolled,
    json_build_object(
        'modules',
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
        ),
        'overall',
        json_build_object(
            'percent', coalesce(100 * overall.completed_count / nullif(overall.total_count, 0), 0),
            'completedCount', overall.completed_count,
            'totalCount', overall.total_count
        )
    ) as answer
from learner
cross join overall;
