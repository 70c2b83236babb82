-- Stores completions of modules, which finished.sql has found in the same transaction. The unique indexes hold the
-- rule: a learner has at most one open completion of a module, and no two with the same time.
--
-- Parameters:
--   user_id               uuid           the learner
--   module_ids            uuid[]         the modules
--   module_completed_ats  timestamptz[]  when each of them was completed
-- Returns: nothing
-- Buffers: 25 light, 25 heavy

insert into module_completions (user_id, module_id, completed_at)
select
    :'user_id'::uuid as user_id,
    module_id,
    completed_at
from unnest(:'module_ids'::uuid[], :'module_completed_ats'::timestamptz[]) as finished (module_id, completed_at)
on conflict do nothing;
