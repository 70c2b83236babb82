-- Stores the imported completions. A completion that is stored already keeps its time. Of two rows of one learner and
-- lesson, the earlier time counts. Rows whose learner or lesson does not exist are left out.
--
-- It runs under the lock of admin/import_lock.sql.
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
where
    user_id in (select id from users)
    and lesson_id in (select id from lessons)
group by user_id, lesson_id
-- In the order of the primary key, new rows of the index are next to each other.
order by user_id, lesson_id
on conflict do nothing;
