-- Copies the best subscription of each learner from stripe_subscriptions into subscriptions, which every other
-- statement reads. A subscription that gives access is better than one that does not. If both or neither give access,
-- the one that ends later is better.
--
-- A subscription counts if `prices` lists the price or product of one of its items, or if `prices` is empty. A
-- subscription that names a course gives that course instead (stripe/give_courses.sql), and does not count. If no
-- subscription of a learner counts, the copy is deleted; a row that was written by hand stays. Run it under lock.sql,
-- or under stripe/apply_terms_lock.sql.
--
-- Parameters:
--   user_ids  uuid[]   the learners
--   prices    text[]   Stripe's ids of the prices and products that give access; empty: every subscription does
--   grace     integer  seconds that access lasts after the end of the period of an active or trialing subscription
-- Returns: nothing
-- Buffers: 10 light, 10 heavy

-- Rows that name one of the subscriptions. An array keeps the question small where subscriptions is distributed.
with held as materialized (
    select
        user_id,
        stripe_subscription_id
    from subscriptions
    where stripe_subscription_id = any(array(
        select stripe_subscription_id
        from stripe_subscriptions
        where user_id = any(:'user_ids'::uuid[])
    ))
),

counting as (
    select
        subscription.user_id,
        subscription.stripe_subscription_id,
        subscription.status,
        subscription.status in ('active', 'trialing') as gives_access,
        period.ends_at
    from stripe_subscriptions as subscription
    cross join
        lateral (
            select subscription.current_period_end as ends_at
            where cardinality(:'prices'::text[]) = 0
            union all
            select max(to_timestamp(item.seconds::double precision)) as ends_at
            from json_each_text(subscription.items -> 'ends') as item (id, seconds)
            where cardinality(:'prices'::text[]) > 0 and item.id = any(:'prices'::text[])
            having count(*) > 0
        ) as period
    where
        subscription.user_id = any(:'user_ids'::uuid[])
        and subscription.items ->> 'courses' is null
        -- Another learner's row may name this subscription, if somebody wrote that row by hand. When the settings are
        -- applied, such a row stays. When an event is stored, release.sql has deleted it before.
        and not exists (
            select from held
            where
                held.stripe_subscription_id = subscription.stripe_subscription_id
                and held.user_id != subscription.user_id
        )
),

best as materialized (
    select distinct on (user_id)
        user_id,
        stripe_subscription_id,
        status,
        case
            when gives_access then ends_at + make_interval(secs => :'grace'::integer)
            else ends_at
        end as current_period_end
    from counting
    order by
        user_id asc,
        gives_access and ends_at is not null desc,
        ends_at desc nulls last,
        stripe_subscription_id asc
),

mirrored as materialized (
    select
        stripe_subscription_id,
        user_id
    from stripe_subscriptions
    where user_id = any(:'user_ids'::uuid[])
),

removed as (
    delete from subscriptions
    using mirrored
    where
        subscriptions.user_id = any(:'user_ids'::uuid[])
        and subscriptions.user_id not in (select user_id from best)
        and subscriptions.stripe_subscription_id = mirrored.stripe_subscription_id
        and subscriptions.user_id = mirrored.user_id
)

insert into subscriptions as copied (
    user_id,
    stripe_subscription_id,
    status,
    current_period_end,
    mirrored_period_end
)
select
    user_id,
    stripe_subscription_id,
    status,
    current_period_end,
    coalesce(current_period_end, '-infinity') as mirrored_period_end
from best
on conflict (user_id) do update
    set
        stripe_subscription_id = excluded.stripe_subscription_id,
        status = excluded.status,
        current_period_end = excluded.current_period_end,
        mirrored_period_end = excluded.mirrored_period_end
    where
    (copied.stripe_subscription_id, copied.status, copied.current_period_end, copied.mirrored_period_end)
    is distinct from (
        excluded.stripe_subscription_id,
        excluded.status,
        excluded.current_period_end,
        excluded.mirrored_period_end
    );
