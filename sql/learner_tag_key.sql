-- The key from which the header Learner-Tag is made, for a site whose settings hold no secret of the sessions. Each
-- process of the service reads it once.
--
-- Parameters: none
-- Returns: one row
--   key  text  72 random characters
-- Buffers: 1 light, 1 heavy

select key
from learner_tag_keys;
