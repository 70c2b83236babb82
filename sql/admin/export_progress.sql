-- Every completion, as make export-progress writes it: `copy (...) to stdout with (format csv, header)`.
--
-- Parameters: none
-- Returns: one row for each completion, by learner and then by lesson, so that two exports are equal
--   user_id       uuid
--   lesson_id     uuid
--   completed_at  text  as the calls answer it: ISO 8601 in UTC, with milliseconds

select
    user_id,
    lesson_id,
    to_char(completed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as completed_at
from progress
order by user_id, lesson_id;
