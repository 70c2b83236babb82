-- How far a learner is over all lessons that the learner may take.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     percent, completedCount, totalCount
-- Buffers: 36 light, 41 heavy

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

counts as (
    select
        count(*) filter (where lesson_id in (select lesson_id from completed)) as completed_count,
        count(*) as total_count
    from accessible_lessons
    where
        user_id = :'user_id'::uuid
        and lesson_id not in (select lesson_id from locked)
)

select
    learner.enrolled,
    json_build_object(
        'percent', coalesce(100 * completed_count / nullif(total_count, 0), 0),
        'completedCount', completed_count,
        'totalCount', total_count
    ) as answer
from learner
cross join counts;
