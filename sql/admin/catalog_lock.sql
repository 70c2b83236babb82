-- Makes other loads of the catalog, and other writers to its tables, wait until the transaction ends. Readers and the
-- marks of learners go on.
--
-- Parameters: none
-- Returns: nothing

lock table courses, modules, lessons, lesson_prerequisites in share row exclusive mode;
