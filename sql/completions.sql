-- Which modules and courses a learner has completed, and when. A module or course that was started over and completed
-- again is there once for each time. There is an answer for everybody: also for a learner without access.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     modules and courses, each by completedAt and then id
-- Buffers: 20 light, 20 heavy

select
    (
        select count(*) > 0
        from learner_access
        where user_id = :'user_id'::uuid
    ) as enrolled,
    json_build_object(
        'modules', (
            select
                coalesce(
                    json_agg(
                        json_build_object(
                            'moduleId', module_id,
                            'completedAt', to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                        )
                        -- By the time as the answer shows it: rows that other programs wrote may have microseconds.
                        order by date_trunc('milliseconds', completed_at), module_id
                    ),
                    '[]'
                )
            from module_completions
            where user_id = :'user_id'::uuid
        ),
        'courses', (
            select
                coalesce(
                    json_agg(
                        json_build_object(
                            'courseId', course_id,
                            'completedAt', to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                        )
                        order by date_trunc('milliseconds', completed_at), course_id
                    ),
                    '[]'
                )
            from course_completions
            where user_id = :'user_id'::uuid
        )
    ) as answer;
