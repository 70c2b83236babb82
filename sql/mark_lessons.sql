-- Marks many lessons as completed by a learner: each lesson of a list that the learner may take, and that is completed
-- already or has each of its prerequisites completed already or marked by this same statement. The order of the list
-- does not matter. A lesson that is completed already keeps its completed_at. It runs under lock.sql, so it reads the
-- latest rows of progress.
--
-- Parameters:
--   user_id        uuid           the learner
--   lesson_ids     uuid[]         the lessons, each once
--   completed_ats  timestamptz[]  when each of them was completed; null or a time in the future means now
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   results   json     one for each lesson, in the order of the list: lessonId, completed, and completedAt, or code and
--                      for a locked lesson prerequisites: what is still to be completed first, in catalog order
--   marked    json     one for each lesson that was marked, in the order of the list: lessonId, moduleId, courseId,
--                      completedAt, and isNew: it was not completed before
-- Buffers: 60 light, 60 heavy

with recursive learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

listed as materialized (
    select
        lesson_id,
        completed_at,
        place
    from unnest(:'lesson_ids'::uuid[], :'completed_ats'::timestamptz[]) with ordinality
        as listed (lesson_id, completed_at, place)
),

accessible as materialized (
    select
        lesson_id,
        module_id,
        course_id
    from accessible_lessons
    where user_id = :'user_id'::uuid and lesson_id = any(:'lesson_ids'::uuid[])
),

-- An array is looked up in an index, key by key, under a generic plan and under a custom plan. With `in`, PostgreSQL
-- might read the whole table.
prerequisites as materialized (
    select
        lesson_id,
        prerequisite_id
    from published_prerequisites
    where lesson_id = any(array(select lesson_id from accessible))
),

-- The completions of the listed lessons and of their prerequisites. Others do not matter here.
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

-- Each round unlocks the lessons that need only what is marked. The rounds end with the one that unlocks nothing more.
opened (lesson_ids) as (
    select
        array(
            select lesson_id from accessible
            where lesson_id not in (select lesson_id from locked)
        )
    union
    select
        opened.lesson_ids || array(
            select lesson_id from accessible
            where
                lesson_id != all(opened.lesson_ids)
                and lesson_id not in (
                    select lesson_id from locked
                    where prerequisite_id != all(opened.lesson_ids)
                )
        )
    from opened
),

markable as materialized (
    select unnest(lesson_ids) as lesson_id
    from opened
),

marked as (
    insert into progress (user_id, lesson_id, completed_at, updated_at)
    select
        :'user_id'::uuid as user_id,
        lesson_id,
        -- The time of this statement: the transaction began before the wait for the lock. least() ignores a null.
        date_trunc('milliseconds', least(completed_at, statement_timestamp())) as completed_at,
        statement_timestamp() as updated_at
    from listed
    where lesson_id in (select lesson_id from markable)
    on conflict (user_id, lesson_id) do update set updated_at = excluded.updated_at
    returning lesson_id, completed_at
),

-- What keeps a lesson locked after this statement.
due as (
    select
        locked.lesson_id,
        json_agg(
            prerequisite.id
            order by
                course.position nulls first, course.id,
                module.position, module.id,
                prerequisite.position, prerequisite.id
        ) as prerequisites
    from locked
    inner join lessons as prerequisite on locked.prerequisite_id = prerequisite.id
    inner join modules as module on prerequisite.module_id = module.id
    left join courses as course on module.course_id = course.id
    where locked.prerequisite_id not in (select lesson_id from markable)
    group by locked.lesson_id
),

results as (
    select
        json_agg(
            case
                when marked.lesson_id is not null
                    then json_build_object(
                        'lessonId', listed.lesson_id,
                        'completed', true,
                        'completedAt', to_char(marked.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                when due.lesson_id is not null
                    then json_build_object(
                        'lessonId', listed.lesson_id,
                        'completed', false,
                        'code', 'lesson_locked',
                        'prerequisites', due.prerequisites
                    )
                else json_build_object(
                    'lessonId', listed.lesson_id,
                    'completed', false,
                    'code', case when lessons.id is null then 'lesson_not_found' else 'lesson_not_available' end
                )
            end
            order by listed.place
        ) as results
    from listed
    left join lessons on listed.lesson_id = lessons.id
    left join marked on listed.lesson_id = marked.lesson_id
    left join due on listed.lesson_id = due.lesson_id
)

select
    learner.enrolled,
    results.results,
    (
        select
            coalesce(
                json_agg(
                    json_build_object(
                        'lessonId', marked.lesson_id,
                        'moduleId', accessible.module_id,
                        'courseId', accessible.course_id,
                        'completedAt', to_char(marked.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
                        'isNew', marked.lesson_id not in (select lesson_id from completed)
                    )
                    order by listed.place
                ),
                '[]'
            )
        from listed
        inner join marked on listed.lesson_id = marked.lesson_id
        inner join accessible on listed.lesson_id = accessible.lesson_id
    ) as marked
from learner
cross join results;
