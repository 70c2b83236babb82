-- Where learners stopped: the lessons to continue with of those who completed something, but nothing for 14 days. It is
-- the lesson that the call GET /next names for the learner at this moment. Learners who have nothing left to continue
-- with did not stop: they do not appear.
--
-- It works out the lessons that a learner may take once for each kind of access, for one learner of the kind. For each
-- learner it goes through them from the latest completed one on, to the first that is available.
--
-- Parameters:
--   course_id  text  the course, as if there were no other lessons; empty: all lessons, in a course or not
-- Returns: a row per lesson at which learners stopped, those with the most learners first, then in the order of the
--          catalog
--   course_id      uuid    its course; null: it is in none
--   course_title   text    the title of the course
--   module_id      uuid    its module
--   module_title   text    the title of the module
--   lesson_id      uuid    the lesson
--   lesson_title   text    its title
--   learner_count  bigint  learners who stopped before it
-- Buffers: 1980 course, 4370 all

with lesson as materialized (
    select
        lessons.id,
        lessons.title,
        modules.id as module_id,
        modules.title as module_title,
        courses.id as course_id,
        courses.title as course_title,
        row_number() over (
            order by
                courses.position nulls first, courses.id, modules.position, modules.id, lessons.position, lessons.id
        ) as place
    from lessons
    inner join modules on lessons.module_id = modules.id
    left join courses on modules.course_id = courses.id
    where nullif(:'course_id', '') is null or modules.course_id = nullif(:'course_id', '')::uuid
),

-- 336 hours are 14 days. With an interval in days, a change of the clocks in the session's time zone would count.
idle as materialized (
    select user_id
    from progress
    where nullif(:'course_id', '') is null or lesson_id in (select id from lesson)
    group by user_id
    having max(completed_at) < now() - interval '336 hours'
),

-- Which lessons a learner may take depends on these things. `kind` is the first learner with the same ones. With full
-- access, courses give nothing more.
idle_learner as materialized (
    select
        user_id,
        first_value(user_id) over (
            partition by
                full_access,
                free_access,
                case
                    when full_access then ''
                    when nullif(:'course_id', '') is null then course_ids::text
                    else (nullif(:'course_id', '')::uuid = any(course_ids))::text
                end
            order by user_id
        ) as kind
    from learner_access
    where user_id in (select user_id from idle)
),

kind_lessons as materialized (
    select
        accessible_lessons.user_id as kind,
        array_agg(accessible_lessons.lesson_id order by lesson.place) as lesson_ids
    from accessible_lessons
    inner join lesson on accessible_lessons.lesson_id = lesson.id
    where accessible_lessons.user_id = any(array(select distinct kind from idle_learner))
    group by accessible_lessons.user_id
),

accessible as materialized (
    select
        kind_lessons.kind,
        listed.lesson_id,
        listed.place
    from kind_lessons
    cross join unnest(kind_lessons.lesson_ids) with ordinality as listed (lesson_id, place)
),

-- Materialized, so that PostgreSQL does not join each learner with each lesson first.
own as materialized (
    select
        progress.user_id,
        idle_learner.kind,
        progress.lesson_id,
        -- As an answer shows the time: rows that other programs wrote may have microseconds.
        date_trunc('milliseconds', progress.completed_at) as completed_at
    from progress
    inner join idle_learner on progress.user_id = idle_learner.user_id
),

latest as materialized (
    select distinct on (own.user_id)
        own.user_id,
        own.kind,
        accessible.place
    from own
    inner join accessible on own.kind = accessible.kind and own.lesson_id = accessible.lesson_id
    order by own.user_id asc, own.completed_at desc, accessible.place desc
),

next as (
    select
        (
            select candidate.lesson_id
            from (
                select
                    -- From the lesson after the latest one on, and after the end from the start again. The first
                    -- element of an array is number 1.
                    kind_lessons.lesson_ids[
                        1 + (coalesce(latest.place, 0) + step) % cardinality(kind_lessons.lesson_ids)
                    ] as lesson_id
                -- In a select list, generate_series makes one step at a time, in order. As a table in `from`, it would
                -- make all of them, also those after the lesson that is found.
                from (select generate_series(0, cardinality(kind_lessons.lesson_ids) - 1) as step) as steps
            ) as candidate
            where
                -- By primary key, so that the cost of a step is the same under every plan.
                (
                    select progress.completed_at
                    from progress
                    where progress.user_id = idle_learner.user_id and progress.lesson_id = candidate.lesson_id
                ) is null
                and (
                    select count(*)
                    from published_prerequisites
                    where
                        published_prerequisites.lesson_id = candidate.lesson_id
                        and (
                            select progress.completed_at
                            from progress
                            where
                                progress.user_id = idle_learner.user_id
                                and progress.lesson_id = published_prerequisites.prerequisite_id
                        ) is null
                ) = 0
            -- With an order, PostgreSQL would take all steps before it sorts them.
            limit 1 -- noqa: AM09
        ) as lesson_id
    from idle_learner
    inner join kind_lessons on idle_learner.kind = kind_lessons.kind
    left join latest on idle_learner.user_id = latest.user_id
),

counts as (
    select
        lesson_id,
        count(*) as learner_count
    from next
    group by lesson_id
)

select
    lesson.course_id,
    lesson.course_title,
    lesson.module_id,
    lesson.module_title,
    lesson.id as lesson_id,
    lesson.title as lesson_title,
    counts.learner_count
from counts
inner join lesson on counts.lesson_id = lesson.id
order by counts.learner_count desc, lesson.place asc;
