-- The eligible lessons that a learner has completed, in the order in which the learner completed them.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: one row
--   enrolled  boolean  the learner has access of any kind
--   answer    json     lessons by completedAt then id
-- Buffers: 30 light, 35 heavy

with learner as (
    select count(*) > 0 as enrolled
    from learner_access
    where user_id = :'user_id'::uuid
),

answers as (
    select
        json_build_object(
            'lessons',
            coalesce(
                json_agg(
                    json_build_object(
                        'lessonId', lesson.lesson_id,
                        'completedAt',
                        to_char(progress.completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
                    )
                    -- By the time as the answer shows it: rows that other programs wrote may have microseconds.
                    order by date_trunc('milliseconds', progress.completed_at), lesson.lesson_id
                ),
                '[]'
            )
        ) as answer
    from accessible_lessons as lesson
    inner join progress on lesson.user_id = progress.user_id and lesson.lesson_id = progress.lesson_id
    where lesson.user_id = :'user_id'::uuid
)

select
    learner.enrolled,
    answers.answer
from learner
cross join answers;
