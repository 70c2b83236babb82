-- Which access a learner has now, and when that access ends. There is an answer for everybody: also for a learner
-- without access, and for a person without a row in users.
--
-- The view has the rule of access. The tables only say when the access that the view names ends.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     full, free, courses in catalog order, until: when full access ends or, without it, free access;
--                      null: it has no end, or there is none
-- Buffers: 20 light, 20 heavy

with access as (
    select
        count(*) > 0 as enrolled,
        coalesce(bool_or(learner_access.full_access), false) as full_access,
        coalesce(bool_or(learner_access.free_access), false) as free_access,
        max(
            case
                when learner_access.full_access then subscriptions.current_period_end
                when learner_access.free_access then enrollments.expires_at
            end
        ) as ends_at
    from learner_access
    left join subscriptions on learner_access.user_id = subscriptions.user_id
    left join enrollments on learner_access.user_id = enrollments.user_id
    where learner_access.user_id = :'user_id'::uuid
),

-- A course may have several sources. Some may have expired, so the latest end is that of one which has not.
course_access as (
    select
        course.id,
        course.position,
        max(coalesce(course_enrollments.expires_at, 'infinity')) as ends_at
    from learner_access
    inner join course_enrollments
        on
            learner_access.user_id = course_enrollments.user_id
            and course_enrollments.course_id = any(learner_access.course_ids)
    inner join courses as course on course_enrollments.course_id = course.id
    where learner_access.user_id = :'user_id'::uuid
    group by course.id, course.position
)

select
    enrolled,
    json_build_object(
        'full', full_access,
        'free', free_access,
        'courses', (
            select
                coalesce(
                    json_agg(
                        json_build_object(
                            'courseId', id,
                            'until', case
                                when ends_at < '10000-01-01T00:00:00Z'::timestamptz
                                    then to_char(ends_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                            end
                        )
                        order by position, id
                    ),
                    '[]'
                )
            from course_access
        ),
        -- An end after the year 9999 counts as none, as infinity does: the year of an answer's time has four digits.
        'until', case
            when ends_at < '10000-01-01T00:00:00Z'::timestamptz
                then to_char(ends_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
        end
    ) as answer
from access;
