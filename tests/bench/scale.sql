-- A catalog and its learners of any size, the same each time. scale.py runs it, a statement at a time.
--
-- Parameters: :courses, :modules and :lessons (in all), :users, and how many of the users are heavy. A user's number is their share:
--   0 to users / 5          have completed nothing
--   the last 26 of all      half of the catalog
--   the 500 before them     a tenth of it
--   the others              30 lessons
-- What somebody has completed begins at a module of their own, and goes on in catalog order. The rows are in the order
-- in which they were completed, one learner's far apart, as they come to be in a table that many write to.

create function pg_temp.id(kind text, number bigint) returns uuid language sql immutable as
'select regexp_replace(md5(kind || number), ''^(.{8})(.{4}).(.{3}).(.{3})(.{12})$'', ''\1-\2-4\3-8\4-\5'')::uuid';

insert into courses (id, title, position)
select pg_temp.id('course', n), 'Course ' || n, n
from generate_series(0, :courses - 1) as n;

insert into modules (id, course_id, title, position)
select pg_temp.id('module', n), pg_temp.id('course', n / (:modules / :courses)), 'Module ' || n, n
from generate_series(0, :modules - 1) as n;

-- One lesson in fifty is not published, one in ten is free.
insert into lessons (id, module_id, title, position, published, is_free)
select
    pg_temp.id('lesson', n),
    pg_temp.id('module', n / (:lessons / :modules)),
    'Lesson ' || n,
    n % (:lessons / :modules),
    n % 50 != 49,
    n % 10 = 0
from generate_series(0, :lessons - 1) as n;

-- Every other lesson needs the one before it; one in ten needs the first one of its module too.
insert into lesson_prerequisites (lesson_id, prerequisite_id)
select pg_temp.id('lesson', n), pg_temp.id('lesson', n - 1)
from generate_series(1, :lessons - 1, 2) as n
union
select pg_temp.id('lesson', n), pg_temp.id('lesson', n - n % (:lessons / :modules))
from generate_series(5, :lessons - 1, 10) as n
where n % (:lessons / :modules) != 0;

insert into users (id, email)
select pg_temp.id('user', n), 'user' || n || '@example.org'
from generate_series(0, :users - 1) as n;

-- Nine in ten have full access, the others the free path.
insert into subscriptions (user_id, stripe_subscription_id, status, current_period_end)
select pg_temp.id('user', n), 'sub_' || n, 'active', '2100-01-01'
from generate_series(0, :users - 1) as n
where n % 10 != 1;

insert into enrollments (user_id)
select pg_temp.id('user', n)
from generate_series(1, :users - 1, 10) as n;

-- Every other learner of the free path has bought one course.
insert into course_enrollments (user_id, course_id)
select pg_temp.id('user', n), pg_temp.id('course', n % :courses)
from generate_series(1, :users - 1, 20) as n;
