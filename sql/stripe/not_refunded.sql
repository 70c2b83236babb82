-- Stores that a payment is not refunded, if Stripe said before that it was: a refund has failed since. If there was no
-- refund, there is nothing to store. Run it under stripe/lock.sql.
--
-- Parameters:
--   refund_failed_at   double precision  when Stripe said so, in seconds since 1970
--   payment_intent_id  text              Stripe's id of the payment
-- Returns: nothing
-- Buffers: 5 light, 5 heavy

update stripe_reversals
set refund_failed_at = greatest(refund_failed_at, to_timestamp(:'refund_failed_at'::double precision))
where payment_intent_id = :'payment_intent_id'::text and refunded_at is not null;
