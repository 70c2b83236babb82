-- Copies the best of a learner's subscriptions at Stripe into subscriptions, from where every other statement has it:
-- one that gives access before one that does not, then the one that lasts longest. It runs under lock.sql. Who has none
-- at Stripe keeps what was written by hand.
--
-- Parameters:
--   user_id  uuid     the learner
--   grace    integer  seconds that a period lasts longer while its subscription is active or trialing
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

insert into subscriptions (user_id, stripe_subscription_id, status, current_period_end)
select
    :'user_id'::uuid as user_id,
    best.stripe_subscription_id,
    best.status,
    case
        when best.status in ('active', 'trialing')
            then best.current_period_end + make_interval(secs => :'grace'::integer)
        else best.current_period_end
    end as current_period_end
from stripe_subscriptions as best
where best.user_id = :'user_id'::uuid
order by
    best.status in ('active', 'trialing') and best.current_period_end is not null desc,
    best.current_period_end desc nulls last,
    best.stripe_subscription_id asc
limit 1
on conflict (user_id) do update
    set
        stripe_subscription_id = excluded.stripe_subscription_id,
        status = excluded.status,
        current_period_end = excluded.current_period_end;
