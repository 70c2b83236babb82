-- Stores when Stripe said that a payment was refunded, that a refund of it failed, or that a dispute about it was lost.
-- The latest time of each stays, so that the order of arrival does not matter. Run it under stripe/lock.sql.
--
-- Parameters:
--   payment_intent_id  text              Stripe's id of the payment
--   refunded_at        double precision  when the whole payment was refunded, in seconds since 1970; null: not said
--   refund_failed_at   double precision  when a refund failed or was canceled, in seconds since 1970; null: not said
--   dispute_lost_at    double precision  when a dispute was lost, in seconds since 1970; null: not said
-- Returns: nothing
-- Buffers: 10 light, 10 heavy

insert into stripe_reversals as stored (
    payment_intent_id,
    refunded_at,
    refund_failed_at,
    dispute_lost_at
)
values (
    :'payment_intent_id'::text,
    to_timestamp(:'refunded_at'::double precision),
    to_timestamp(:'refund_failed_at'::double precision),
    to_timestamp(:'dispute_lost_at'::double precision)
)
on conflict (payment_intent_id) do update
    set
        -- greatest() ignores a null.
        refunded_at = greatest(stored.refunded_at, excluded.refunded_at),
        refund_failed_at = greatest(stored.refund_failed_at, excluded.refund_failed_at),
        dispute_lost_at = greatest(stored.dispute_lost_at, excluded.dispute_lost_at);
