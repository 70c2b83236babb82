-- Adds comments to tables that earlier versions created without one, because a rollback drops only tables with such a
-- comment. A table counts as this service's if its columns and its primary key are those of the earlier migrations. An
-- earlier version may have used a site's own table of the same name. Such a table stops the migration.
do $$
declare
    ours record;
    relation regclass;
    others text;
begin
    for ours in
        select
            name,
            columns,
            key,
            comment
        from (
            values
            (
                'modules',
                'created_at timestamp with time zone, id uuid, position integer, title text',
                'id',
                'ordered groups of lessons'
            ),
            (
                'lessons',
                'created_at timestamp with time zone, id uuid, is_free boolean, module_id uuid, position integer, '
                'published boolean, title text',
                'id',
                'what can be completed'
            ),
            (
                'lesson_prerequisites',
                'created_at timestamp with time zone, lesson_id uuid, prerequisite_id uuid',
                'lesson_id, prerequisite_id',
                'what must be completed first'
            ),
            (
                'subscriptions',
                'created_at timestamp with time zone, current_period_end timestamp with time zone, status text, '
                'stripe_subscription_id text, user_id uuid',
                'user_id',
                'learners'' subscriptions, mirrored from Stripe'
            ),
            (
                'enrollments',
                'created_at timestamp with time zone, expires_at timestamp with time zone, user_id uuid',
                'user_id',
                'learners with free access'
            ),
            (
                'progress',
                'completed_at timestamp with time zone, created_at timestamp with time zone, lesson_id uuid, '
                'updated_at timestamp with time zone, user_id uuid',
                'lesson_id, user_id',
                'which learner has completed which lesson'
            ),
            (
                'rate_limits',
                'expires_at timestamp with time zone, hits timestamp with time zone[], key text',
                'key',
                'when each learner last wrote'
            ),
            (
                'stripe_customers',
                'claimed_user_id uuid, created_at timestamp with time zone, customer_id text, '
                'event_created timestamp with time zone, user_id uuid',
                'customer_id',
                'which learner a customer of Stripe''s is'
            ),
            (
                'stripe_subscriptions',
                'claimed_user_id uuid, created_at timestamp with time zone, '
                'current_period_end timestamp with time zone, customer_id text, '
                'event_created timestamp with time zone, event_id text, event_type text, object json, '
                'previous_attributes json, status text, stripe_subscription_id text, '
                'updated_at timestamp with time zone, user_id uuid',
                'stripe_subscription_id',
                'what Stripe said last of each subscription'
            )
        ) as tables (name, columns, key, comment)
    loop
        relation := to_regclass(quote_ident(current_schema()) || '.' || ours.name);
        if obj_description(relation, 'pg_class') ~ 'created by progress-tracking' then
            continue;
        elsif
            ours.columns = (
                select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attname)
                from pg_attribute
                where attrelid = relation and attnum > 0 and not attisdropped
            )
            and ours.key = (
                select string_agg(attname, ', ' order by attname)
                from pg_constraint
                inner join pg_attribute on conrelid = attrelid and attnum = any(conkey)
                where conrelid = relation and contype = 'p'
            )
        then
            execute 'comment on table ' || relation || ' is '
                || quote_literal(ours.comment || ' (created by progress-tracking)');
        else
            others := concat_ws(', ', others, ours.name);
        end if;
    end loop;
    if others is not null then
        raise exception using
            errcode = 'invalid_table_definition',
            message = 'schema ' || current_schema() || ' has no such table as this service creates: ' || others,
            hint = 'Columns or primary key differ, or there is none. If a table is the site''s own, move the service '
            'into a schema of its own (docs/operating.md, "A schema of its own"). If it is the service''s with columns of '
            'yours: comment on table NAME is ''created by progress-tracking''.';
    end if;
end
$$;
