-- Keeps Stripe's events out while the learners of stripe_judge.sql are copied again, to the end of the transaction: an
-- event that came in between would be overwritten by what was read before it.
--
-- Parameters: none
-- Returns: nothing

lock table stripe_subscriptions in share row exclusive mode;
