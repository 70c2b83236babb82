"""Selling access with Stripe: the webhook, and a mirror of Stripe's subscriptions that decides who has full access.

Events come in any order and more than once, and two events of one second are usual. So each subscription has a row of
its own, which only a newer state replaces. In the same transaction, the best subscription of a learner is copied into
the table `subscriptions`, which every other statement reads.
"""
