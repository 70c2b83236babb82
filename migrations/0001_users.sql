-- Learners. If the site already has a users table in any schema of the search_path, this migration checks the table and
-- does not change it.

-- These are the names in all migrations. If a later migration would stop because one is taken, a fresh run stops here,
-- before it has created anything.
do $$
declare
    taken text;
begin
    select string_agg(relname, ', ' order by relname) into taken
    from pg_class
    inner join pg_namespace on relnamespace = pg_namespace.oid
    left join pg_index on pg_class.oid = indexrelid
    where
        nspname = current_schema()
        and relname in (
            'modules', 'lessons', 'lesson_prerequisites', 'lessons_module_id_idx',
            'lesson_prerequisites_prerequisite_id_idx', 'subscriptions', 'enrollments', 'progress',
            'progress_lesson_id_idx', 'rate_limits', 'stripe_customers', 'stripe_subscriptions',
            'stripe_customers_user_id_idx', 'stripe_subscriptions_customer_id_idx',
            'stripe_subscriptions_user_id_idx', 'stripe_checkouts', 'stripe_checkouts_stripe_subscription_id_idx',
            'stripe_checkouts_customer_id_idx', 'stripe_checkouts_user_id_idx', 'learner_tag_keys', 'learner_access',
            'accessible_lessons', 'published_prerequisites', 'lessons_unpublished_idx',
            'stripe_subscriptions_unattached_idx', 'stripe_checkouts_unattached_idx', 'stripe_customers_unattached_idx',
            'courses', 'course_enrollments', 'modules_course_id_idx', 'course_enrollments_course_id_idx',
            'stripe_payments', 'stripe_reversals', 'paid_courses', 'stripe_payments_claimed_user_id_idx',
            'stripe_payments_user_id_idx', 'module_completions', 'course_completions', 'module_completions_open_idx',
            'course_completions_open_idx', 'module_completions_module_id_idx', 'course_completions_course_id_idx',
            'events', 'events_due_idx', 'events_waiting_idx', 'events_delivered_idx', 'events_given_up_idx',
            'learner_contacts'
        )
        and (obj_description(coalesce(indrelid, pg_class.oid), 'pg_class') ~ 'created by progress-tracking') is not true;
    if taken is not null then
        raise exception using
            errcode = 'duplicate_table',
            message = 'schema ' || current_schema() || ' already has relations that this service did not create: ' || taken,
            hint = 'Give the service a schema of its own (docs/operating.md, "A schema of its own"), or rename them.';
    end if;
end
$$;

do $$
begin
    if to_regclass('users') is null then
        create table users (
            id uuid primary key,
            email text unique,
            name text,
            created_at timestamptz not null default now()
        );
        -- The rollback drops the table only if it has this comment.
        comment on table users is 'learners (created by progress-tracking)';
    elsif not exists (
        select from pg_constraint
        inner join pg_attribute on attrelid = conrelid and conkey = array[attnum]
        where conrelid = 'users'::regclass and contype = 'p' and attname = 'id' and atttypid = 'uuid'::regtype
    ) then
        raise exception using
            errcode = 'invalid_table_definition',
            message = 'the users table that is already here must have "id uuid" as its primary key',
            hint = 'Give it one, or leave its schema out of the search_path: the service then creates a users table in a '
            'schema of its own, for the site to fill (docs/operating.md, "Learners").';
    end if;
end
$$;
