-- Stores completions of courses, which finished.sql has found in the same transaction. The unique indexes hold the
-- rule: a learner has at most one open completion of a course, and no two with the same time.
--
-- Parameters:
--   user_id               uuid           the learner
--   course_ids            uuid[]         the courses
--   course_completed_ats  timestamptz[]  when each of them was completed
-- Returns: nothing
-- Buffers: 25 light, 25 heavy

insert into course_completions (user_id, course_id, completed_at)
select
    :'user_id'::uuid as user_id,
    course_id,
    completed_at
from unnest(:'course_ids'::uuid[], :'course_completed_ats'::timestamptz[]) as finished (course_id, completed_at)
on conflict do nothing;
