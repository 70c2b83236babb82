-- Whether the service can work with the server that answers: for the check at the start, for /readyz, and after an
-- error that a standby gives, but a primary in other cases too.
--
-- Row level security hides rows without an error. The lock of a write then locks nothing. PostgreSQL does not tell
-- whether a policy hides rows or lets every row pass, so each table with row level security counts.
--
-- Parameters:
--   tables  json  names of tables and views, as PostgreSQL reads them; a name that the role has no table for is ignored
-- Returns: one row
--   in_recovery  boolean  the server is a standby, which takes no writes
--   role         text     the role of this connection, quoted as an identifier where that is needed
--   filtered     text[]   the tables, and the tables below the views, whose rows this role may not see all of
-- Buffers: 20 light, 20 heavy

with recursive relations as (
    select to_regclass(name) as relation
    from json_array_elements_text(:'tables'::json) as named (name)
    union
    -- The tables and views that a view reads, if PostgreSQL applies the row level security of the role that asks.
    select pg_depend.refobjid::regclass as relation
    from relations
    inner join pg_class on relations.relation = pg_class.oid and 'security_invoker=true' = any(pg_class.reloptions)
    inner join pg_rewrite on pg_class.oid = pg_rewrite.ev_class
    inner join pg_depend
        on
            pg_rewrite.oid = pg_depend.objid
            and pg_depend.classid = 'pg_rewrite'::regclass
            and pg_depend.refclassid = 'pg_class'::regclass
)

select
    pg_is_in_recovery() as in_recovery,
    quote_ident(current_user) as role,
    array(
        select relation::text
        from relations
        where has_any_column_privilege(relation, 'select') and row_security_active(relation)
        order by 1
    ) as filtered;
