-- Takes the imported rows whose learner or lesson does not exist out of the table. Returns the first ones of the file.
--
-- Parameters:
--   missing_user_ids  uuid[]   the learners of the file who do not exist
--   limit             integer  how many rows to return at most
-- Returns: one row for each of these rows, in the order of the file
--   line         bigint  the line where the row begins
--   user_id      text    the learner who does not exist, else null
--   lesson_id    text    the lesson that does not exist, else null
--   fault_count  bigint  how many such rows the file has

with fault as (
    delete from imported
    where
        user_id in (select unnest(:'missing_user_ids'::uuid[]))
        or lesson_id not in (select id from lessons)
    returning line, user_id, lesson_id
)

select
    line,
    case when user_id in (select unnest(:'missing_user_ids'::uuid[])) then user_id::text end as user_id,
    case when lesson_id not in (select id from lessons) then lesson_id::text end as lesson_id,
    count(*) over () as fault_count
from fault
order by line
limit :'limit'::integer;
