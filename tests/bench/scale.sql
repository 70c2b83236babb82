-- A catalog and its learners of any size, the same ones each time. scale.py runs the statements of this file one by one,
-- and then fills the table progress.
--
-- Parameters: :courses, :modules, :lessons (of all modules together), :users
--
-- The number of a user decides how much the user has completed, here in the size `large`:
--   0 to users / 5          nothing
--   the last 26 users       half of the catalog
--   the 500 before them     a tenth of the catalog
--   all others              30 lessons
-- The completions of a user begin at a module that depends on the user, and go on in catalog order. The rows of progress
-- are in the order of the completions. So the rows of one learner are far apart, as in a table that many learners write.

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

-- Every second lesson needs the lesson before it. One lesson in ten also needs the first lesson of its module.
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

-- Nine in ten have full access, the others free access.
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
