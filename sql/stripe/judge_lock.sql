-- Keeps Stripe's events out to the end of the transaction, while the learners of stripe/judge.sql are copied again. The
-- copy of what was read before an event would overwrite what the event stored.
--
-- Parameters: none
-- Returns: nothing

lock table stripe_subscriptions in share row exclusive mode;
