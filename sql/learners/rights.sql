-- Whether the table users is the service's own, and to which tables the role of this connection may add rows, for
-- NEW_LEARNERS. A value is null if its table is missing.
--
-- Parameters: none
-- Returns: one row
--   role         text     the role of this connection, quoted as an identifier where that is needed
--   own_users    boolean  the table users is this service's own; false: the site's, which the service never writes
--   may_add      boolean  the role may add rows to users
--   may_enroll   boolean  the role may add rows to enrollments
-- Buffers: 10 light, 10 heavy

select
    quote_ident(current_user) as role,
    coalesce(
        obj_description(to_regclass('users'), 'pg_class') ~ 'created by progress-tracking',
        false
    ) as own_users,
    has_column_privilege(to_regclass('users'), 'id', 'insert') as may_add,
    has_column_privilege(to_regclass('enrollments'), 'user_id', 'insert') as may_enroll;
