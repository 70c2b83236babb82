-- drops data: subscriptions and enrollments
drop table if exists enrollments;
drop table if exists subscriptions;
