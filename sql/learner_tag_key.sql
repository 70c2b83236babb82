-- The key of the header Learner-Tag, where no setting holds a secret that sessions are made with. The service reads it
-- once for each process.
--
-- Parameters: none
-- Returns: one row
--   key  text  72 random characters
-- Buffers: 1 light, 1 heavy

select key
from learner_tag_keys;
