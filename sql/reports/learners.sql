-- How far each learner is in a course: what the call GET /courses/{courseId} counts for the learner at this moment.
--
-- It works out which lessons a learner may take once for each kind of access, for one learner of the kind. Of the other
-- learners it reads what they have completed. A row for each learner and each lesson would be too many.
--
-- Parameters:
--   course_id  uuid  the course
-- Returns: a row per learner who has access to the course now, or who completed a lesson of it: those who are farthest
--          first, then by the last completion, the latest first, then by id
--   user_id          uuid    the learner
--   percent          bigint  of the lessons that count, rounded down; 0 without access
--   completed_count  bigint  completed lessons that count: accessible, and therefore published
--   total_count      bigint  lessons that count: accessible and not locked
--   first_day        text    the day in UTC of the first completion in the course, such as 2026-01-31; null: none
--   last_day         text    the day of the last one
-- Buffers: 380 course

with lesson as materialized (
    select lessons.id
    from lessons
    inner join modules on lessons.module_id = modules.id
    where modules.course_id = :'course_id'::uuid
),

-- Which lessons of the course a learner may take depends on these three things. `kind` is the first learner with the
-- same ones.
kind_learner as materialized (
    select
        user_id,
        first_value(user_id) over (
            partition by full_access, free_access, :'course_id'::uuid = any(course_ids)
            order by user_id
        ) as kind
    from learner_access
),

accessible as materialized (
    select
        user_id as kind,
        lesson_id
    from accessible_lessons
    where user_id = any(array(select distinct kind from kind_learner)) and course_id = :'course_id'::uuid
),

prerequisite as materialized (
    select
        lesson_id,
        prerequisite_id
    from published_prerequisites
    where lesson_id = any(array(select lesson_id from accessible))
),

needed as (
    select
        lesson_id,
        count(*) as needed_count
    from prerequisite
    group by lesson_id
),

-- Without a prerequisite, a lesson counts for every learner who may take it.
open_counts as (
    select
        accessible.kind,
        count(*) filter (where needed_count is null) as open_count
    from accessible
    left join needed on accessible.lesson_id = needed.lesson_id
    group by accessible.kind
),

own as materialized (
    select
        user_id,
        lesson_id,
        completed_at
    from progress
    where
        lesson_id in (
            select id from lesson
            union all
            select prerequisite_id from prerequisite
        )
),

-- What is known of a learner and a lesson: whether it is completed, and how many of its prerequisites are.
known as (
    select
        user_id,
        lesson_id,
        max(completed_at) as completed_at,
        sum(met) as met_count
    from (
        select
            user_id,
            lesson_id,
            completed_at,
            0 as met
        from own
        union all
        select
            own.user_id,
            prerequisite.lesson_id,
            null as completed_at,
            1 as met
        from own
        inner join prerequisite on own.lesson_id = prerequisite.prerequisite_id
    ) as facts
    group by user_id, lesson_id
),

counts as (
    select
        known.user_id,
        count(known.completed_at) filter (where accessible.kind is not null) as completed_count,
        count(needed_count) filter (
            where accessible.kind is not null and (known.completed_at is not null or met_count = needed_count)
        ) as unlocked_count,
        min(known.completed_at) filter (where known.lesson_id in (select id from lesson)) as first_completed_at,
        max(known.completed_at) filter (where known.lesson_id in (select id from lesson)) as last_completed_at
    from known
    left join kind_learner on known.user_id = kind_learner.user_id
    left join accessible on kind_learner.kind = accessible.kind and known.lesson_id = accessible.lesson_id
    left join needed on known.lesson_id = needed.lesson_id
    group by known.user_id
),

entitled as (
    select
        kind_learner.user_id,
        open_counts.open_count
    from kind_learner
    inner join open_counts on kind_learner.kind = open_counts.kind
),

totals as (
    select
        coalesce(entitled.user_id, counts.user_id) as user_id,
        coalesce(completed_count, 0) as completed_count,
        coalesce(open_count, 0) + coalesce(unlocked_count, 0) as total_count,
        first_completed_at,
        last_completed_at
    from entitled
    full join counts on entitled.user_id = counts.user_id
    where entitled.user_id is not null or first_completed_at is not null
)

select
    user_id,
    coalesce(100 * completed_count / nullif(total_count, 0), 0) as percent,
    completed_count,
    total_count,
    to_char(first_completed_at at time zone 'UTC', 'YYYY-MM-DD') as first_day,
    to_char(last_completed_at at time zone 'UTC', 'YYYY-MM-DD') as last_day
from totals
order by percent desc, last_completed_at desc nulls last, user_id asc;
