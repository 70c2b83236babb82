-- Makes the temporary table for the rows of an imported file. The next statements read it, in the same transaction.
-- A copy fills it: `copy imported from stdin`.
--
-- Parameters: none
-- Returns: nothing

create temporary table imported (
    -- Where the row begins in the file, from 1.
    line bigint not null,
    user_id uuid not null,
    lesson_id uuid not null,
    -- Null is the time of the import.
    completed_at timestamptz
) on commit drop;
