-- Makes Stripe's events wait until the transaction ends. In it, access follows what is stored of many learners. If an
-- event came between the read and the write, the write would overwrite what the event stored.
--
-- The tables are locked in the order in which an event writes them. Otherwise there may be a deadlock.
--
-- Parameters: none
-- Returns: nothing

lock table stripe_subscriptions, stripe_reversals, stripe_payments in share row exclusive mode;
