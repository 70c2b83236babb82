-- Counts what an import will do. Rows whose learner or lesson does not exist do not count.
--
-- Parameters: none
-- Returns: one row
--   completion_count  bigint  how many completions the file has: two rows of one learner and lesson are one
--   new_count         bigint  how many of these are not stored yet

with completions as (
    select distinct
        user_id,
        lesson_id
    from imported
    where
        user_id in (select id from users)
        and lesson_id in (select id from lessons)
)

select
    count(*) as completion_count,
    count(*) filter (where progress.user_id is null) as new_count
from completions
left join progress
    on
        completions.user_id = progress.user_id
        and completions.lesson_id = progress.lesson_id;
