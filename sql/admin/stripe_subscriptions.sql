-- What Stripe says of every subscription of a learner, for make access.
--
-- Parameters:
--   user_id  uuid  the learner
-- Returns: a row per subscription, the one of which Stripe said something last first
--   stripe_subscription_id  text  the subscription
--   status                  text  as Stripe calls it
--   current_period_end      text  when its period ends, in UTC; null if it has none
--   said_at                 text  when Stripe said so, in UTC
--   prices                  text  the prices and products of its items, by Stripe's ids; null if it has none
-- Buffers: 10 light, 10 heavy

select
    said.stripe_subscription_id,
    said.status,
    to_char(said.current_period_end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as current_period_end,
    to_char(said.event_created at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as said_at,
    (
        select
            string_agg(
                distinct concat_ws(
                    ' of ', item.document -> 'price' ->> 'id', item.document -> 'price' ->> 'product'
                ),
                ', '
            )
        from json_array_elements(
            case
                when json_typeof(said.object -> 'items' -> 'data') = 'array'
                    then said.object -> 'items' -> 'data'
                else '[]'
            end
        ) as item (document)
    ) as prices
from stripe_subscriptions as said
where said.user_id = :'user_id'::uuid
order by said.event_created desc, said.stripe_subscription_id asc;
