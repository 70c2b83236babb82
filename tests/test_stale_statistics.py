"""The statements while PostgreSQL expects tables to be empty, and they are not.

A site's own tests delete every row and insert others. Where autovacuum looks at a table in between, PostgreSQL expects
one row of it until it looks again, and takes nested loops. What a nested loop repeats must then be cheap.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from app.demo import courses
from tests.bench import plans
from tests.world import LEARNER, add_user, load_curricula

# The tables that were empty. Beside them are the statements that once took seconds then.
EMPTIED = {
    "lessons and prerequisites": ["lessons", "lesson_prerequisites"],  # outline, on PostgreSQL 15
    "all but prerequisites": ["courses", "modules", "lessons", "course_enrollments", "progress"],  # may_mark
    "all": ["courses", "modules", "lessons", "lesson_prerequisites", "course_enrollments", "progress"],
}
# Those of make look at every learner anyway, and those of Stripe's webhook read none of these tables.
NAMES = [name for name in plans.names() if "/" not in name]


class Stale(NamedTuple):
    connection: psycopg.Connection[Any]
    learner: plans.Learner
    lessons: int


@pytest.fixture(scope="module", params=EMPTIED)
def stale(
    migrated_database: Callable[[], str],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stale]:
    """Load both real curricula, of which the learner has the longer one and has completed it, but for one lesson."""
    url = migrated_database()
    load_curricula(url, tmp_path_factory.mktemp("stale"))
    with psycopg.connect(url, autocommit=True) as connection:
        add_user(connection, access=None)
        connection.execute("insert into course_enrollments values (%s, %s)", [LEARNER, courses.ODIN])
        connection.execute(
            "insert into progress (user_id, lesson_id, completed_at)"
            " select user_id, lesson_id, now() from accessible_lessons"
        )
        left = connection.execute(
            "delete from progress where lesson_id = (select max(lesson_id::text)::uuid from progress)"
            " returning lesson_id::text, (select module_id::text from lessons where id = lesson_id)"
        ).fetchone()
        lessons = connection.execute("select count(*) from lessons").fetchone()
        connection.execute("vacuum analyze")
        connection.execute("set session_replication_role = replica")
        for table in EMPTIED[request.param]:
            connection.execute(
                f"create temporary table kept as table {table}; delete from {table}; analyze {table};"
                f" insert into {table} table kept; drop table kept".encode()
            )
        connection.execute("reset session_replication_role")
        assert left
        assert lessons
        yield Stale(connection, plans.Learner("heavy", LEARNER, left[0], left[1], courses.ODIN), lessons[0])


@pytest.mark.parametrize("mode", plans.MODES)
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_statistics_do_not_know_cost_no_more_than_comparing_each_with_each(stale, name, mode):
    plan = plans.explain(stale.connection, name, stale.learner, mode)
    assert plan.visited() < 10 * stale.lessons**2, "\n".join(plans.lines(plan.document))
