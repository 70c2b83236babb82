-- Which lessons of a list a learner may mark as completed: each lesson that the learner may take, and that is completed
-- already or has each of its prerequisites completed already or in this same list. The order of the list does not
-- matter. mark_lessons.sql then stores these marks. A lesson that is completed already keeps its completed_at. It runs
-- under lock.sql, so it reads the latest rows of progress. The buffers below are those of a list of one lesson.
--
-- Parameters:
--   user_id        uuid           the learner
--   lesson_ids     uuid[]         the lessons, each once
--   completed_ats  timestamptz[]  when each of them was completed; null or a time in the future means now
-- Returns: one row
--   enrolled     boolean  the learner has access of any kind
--   results      json     one for each lesson, in the order of the list: lessonId, completed, and completedAt or code.
--                         A locked lesson also has prerequisites: what is still to be completed first, in catalog order
--   marked       json     one for each lesson to mark, in the order of the list: lessonId, moduleId, courseId,
--                         completedAt, and isNew: it is not completed yet
--   to_mark      text     the ids of these lessons, as an array of uuid
--   to_mark_ats  text     when each of them was completed, as an array of timestamptz
--   finishes     boolean  in the module of one of them, every published lesson is completed or to be marked
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

-- From here on, the statement finds the lessons that can be marked, round by round, beginning with those that are not
-- locked. A lesson that waits for itself is never found: plain SQL may have written prerequisites that form a cycle.
--
-- A list may need as many rounds as it has lessons. So a round must not read all lessons, nor depend on how PostgreSQL
-- plans a join. Therefore a lesson is a number here, and a set of lessons is a bit string. A round looks up in arrays,
-- by number, what the next lessons are.
--
-- An example: lesson 1 is open, lesson 2 needs lesson 1, and lesson 3 needs lesson 2 and a lesson that is not in the
-- list. The bits are numbered from 0, from the left.
--   needs       1: 0000, 2: 0100, 3: 1010 (bit 0, which no round opens, is the lesson that is not in the list)
--   dependents  1: {2}, 2: {3}, 3: {} (and a null in each, which no round uses)
--   rounds      opened 0100, fresh {1}: lesson 2 needs 0100, and all of it is opened
--               opened 0110, fresh {2}: lesson 3 needs 1010, and 0110 & 1010 is only 0010, so lesson 3 stays locked
numbered as materialized (
    select
        lesson_id,
        row_number() over ()::integer as number,
        lesson_id not in (select lesson_id from locked) as is_open
    from accessible
),

numbers as materialized (
    select
        jsonb_object_agg(lesson_id, number) as by_lesson,
        repeat('0', count(*)::integer + 1)::bit varying as nothing
    from numbered
),

-- A prerequisite that is not in the list, or that is not accessible, has the number 0. No round opens the number 0.
edges as materialized (
    select
        (numbers.by_lesson -> locked.lesson_id::text)::integer as number,
        coalesce((numbers.by_lesson -> locked.prerequisite_id::text)::integer, 0) as needed
    from locked
    cross join numbers
),

graph as materialized (
    select
        numbers.nothing,
        array(
            select bit_or(needs)
            from (
                select
                    number,
                    numbers.nothing as needs
                from numbered
                union all
                select
                    number,
                    set_bit(numbers.nothing, needed, 1) as needs
                from edges
            ) as parts
            group by number
            order by number
        ) as needs,
        -- An array of arrays would have to be rectangular, so each array is text.
        array(
            select array_agg(dependent)::text
            from (
                select
                    number,
                    null as dependent
                from numbered
                union all
                select
                    needed as number,
                    number as dependent
                from edges
                where needed > 0
            ) as parts
            group by number
            order by number
        ) as dependents
    from numbers
),

rounds (opened, fresh) as (
    select
        bit_or(set_bit(numbers.nothing, numbered.number, 1)) as opened,
        array_agg(numbered.number) as fresh
    from numbered
    cross join numbers
    where numbered.is_open
    union all
    select
        rounds.opened | next.opened as opened,
        next.fresh
    from rounds
    cross join graph
    cross join
        lateral (
            select
                bit_or(set_bit(graph.nothing, dependent, 1)) as opened,
                array_agg(distinct dependent) as fresh
            from unnest(rounds.fresh) as number
            cross join lateral unnest(graph.dependents[number]::integer[]) as dependent
            where rounds.opened & graph.needs[dependent] = graph.needs[dependent]
        ) as next
    where next.fresh is not null
),

markable as materialized (
    select lesson_id
    from numbered
    where get_bit((select bit_or(opened) from rounds), number) = 1
),

-- What is to be marked. A lesson that is completed already keeps its time. A join might become a nested loop. A union
-- and a group cannot.
marked as materialized (
    select
        lesson_id,
        min(place) as place,
        coalesce(
            min(stored_at),
            -- The time of this statement: the transaction began before the wait for the lock. least() ignores a null.
            date_trunc('milliseconds', least(min(given_at), statement_timestamp()))
        ) as completed_at,
        min(stored_at) is null as is_new
    from (
        select
            lesson_id,
            place,
            completed_at as given_at,
            null::timestamptz as stored_at
        from listed
        where lesson_id = any(array(select lesson_id from markable))
        union all
        select
            lesson_id,
            null as place,
            null as given_at,
            completed_at as stored_at
        from completed
    ) as parts
    group by lesson_id
    having min(place) is not null
),

-- What keeps a lesson locked after the marks.
due as (
    select
        locked.lesson_id,
        array_agg(
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

-- All that is known of each lesson of the list.
outcomes as (
    select
        lesson_id,
        min(place) as place,
        bool_or(is_known) as is_known,
        min(completed_at) as completed_at,
        min(prerequisites) as prerequisites
    from (
        select
            lesson_id,
            place,
            false as is_known,
            null::timestamptz as completed_at,
            null::uuid[] as prerequisites
        from listed
        union all
        select
            id as lesson_id,
            null as place,
            true as is_known,
            null as completed_at,
            null as prerequisites
        from lessons
        where id = any(:'lesson_ids'::uuid[])
        union all
        select
            lesson_id,
            null as place,
            true as is_known,
            completed_at,
            null as prerequisites
        from marked
        union all
        select
            lesson_id,
            null as place,
            true as is_known,
            null as completed_at,
            prerequisites
        from due
    ) as parts
    group by lesson_id
),

results as (
    select
        json_agg(
            case
                when completed_at is not null
                    then json_build_object(
                        'lessonId', lesson_id,
                        'completed', true,
                        'completedAt', to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                when prerequisites is not null
                    then json_build_object(
                        'lessonId', lesson_id,
                        'completed', false,
                        'code', 'lesson_locked',
                        'prerequisites', prerequisites
                    )
                else json_build_object(
                    'lessonId', lesson_id,
                    'completed', false,
                    'code', case when is_known then 'lesson_not_available' else 'lesson_not_found' end
                )
            end
            order by place
        ) as results
    from outcomes
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
                        'isNew', marked.is_new
                    )
                    order by marked.place
                ),
                '[]'
            )
        from marked
        inner join accessible on marked.lesson_id = accessible.lesson_id
    ) as marked,
    array(
        select lesson_id from marked
        order by place
    )::text as to_mark,
    array(
        select completed_at from marked
        order by place
    )::text as to_mark_ats,
    -- The search ends at the first lesson that is not completed, and each lesson is looked up by its key. Each
    -- `offset 0` keeps its `not exists` a subquery of its own. Otherwise PostgreSQL might make a join, and read
    -- everything that the learner has completed.
    exists(
        select
        from modules
        where
            modules.id = any(array(
                select module_id
                from accessible
                where lesson_id in (select lesson_id from markable)
            ))
            and not exists (
                select
                from lessons as other
                where
                    other.module_id = modules.id
                    and other.published
                    and other.id not in (select lesson_id from markable)
                    and not exists (
                        select
                        from progress
                        where progress.user_id = :'user_id'::uuid and progress.lesson_id = other.id
                        offset 0 -- noqa: AM09
                    )
                offset 0 -- noqa: AM09
            )
    ) as finishes
from learner
cross join results;
