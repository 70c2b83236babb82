-- Stores the imported completions. A completion that is stored already keeps its time. Of two rows of one learner and
-- lesson, the earlier time counts.
--
-- It runs after admin/import_faults.sql, under lock.sql for each learner. So the learners exist until the end of the
-- transaction. A lesson that was deleted meanwhile violates the foreign key, and nothing is stored.
--
-- Parameters: none
-- Returns: nothing

insert into progress (user_id, lesson_id, completed_at)
select
    user_id,
    lesson_id,
    -- As in mark.sql. least() ignores a null, so a row without a time gets the time of the import.
    date_trunc('milliseconds', min(least(completed_at, statement_timestamp()))) as completed_at
from imported
group by user_id, lesson_id
-- In the order of the primary key, new rows of the index are next to each other.
order by user_id, lesson_id
on conflict do nothing;
