-- Makes Stripe's events wait until the transaction ends. In it, the subscriptions of the learners of
-- stripe/apply_terms_learners.sql are copied again. If an event came between the read and the copy, the copy would
-- overwrite what the event stored.
--
-- Parameters: none
-- Returns: nothing

lock table stripe_subscriptions in share row exclusive mode;
