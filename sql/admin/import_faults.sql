-- Finds the imported rows whose learner or lesson does not exist, the first ones of the file.
--
-- Parameters:
--   limit  integer  how many rows at most
-- Returns: one row for each of these rows, in the order of the file
--   line         bigint  the line where the row begins
--   user_id      text    the learner who does not exist, else null
--   lesson_id    text    the lesson that does not exist, else null
--   fault_count  bigint  how many such rows the file has

select
    imported.line,
    case when users.id is null then imported.user_id::text end as user_id,
    case when lessons.id is null then imported.lesson_id::text end as lesson_id,
    count(*) over () as fault_count
from imported
left join users on imported.user_id = users.id
left join lessons on imported.lesson_id = lessons.id
where users.id is null or lessons.id is null
order by imported.line
limit :'limit'::integer;
