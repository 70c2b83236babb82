-- Puts loads of the catalog in a row, and keeps other writers of it out, to the end of the transaction. Readers and
-- learners' marks go on.
--
-- Parameters: none
-- Returns: nothing

lock table modules, lessons, lesson_prerequisites in share row exclusive mode;
