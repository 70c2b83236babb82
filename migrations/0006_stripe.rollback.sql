-- drops data: what Stripe said of each subscription; access stays as it is, and make stripe-sync fetches the rest again
drop table if exists stripe_subscriptions;

drop table if exists stripe_customers;
