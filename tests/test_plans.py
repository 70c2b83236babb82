"""The plans of sql/, on a thousand lessons, generic and custom: how much they read, and what they must not do.

Each file says in its header how many buffers it may touch, for a learner with 30 completions and for one with 500.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psycopg
import pytest

from app.database.statements import SQL, STATEMENTS, load
from tests.bench import plans, scale
from tests.conftest import migrate
from tests.world import LEARNER, add_module, add_user, uuid4

CATALOG = {"modules", "lessons", "lesson_prerequisites"}


class Scale(NamedTuple):
    connection: psycopg.Connection[Any]
    light: plans.Learner
    heavy: plans.Learner


@pytest.fixture(scope="module")
def middle(new_database: Callable[[], str]) -> Iterator[Scale]:
    url = new_database()
    scale.load(url, scale.SIZES["middle"])
    with psycopg.connect(url, autocommit=True) as connection:
        yield Scale(connection, plans.learner(connection, "light", 30), plans.learner(connection, "heavy", 500))


def faults(plan: plans.Plan) -> list[str]:
    """Return what makes the cost of a plan grow with more than the catalog and the rows of the learner."""
    found = []
    for node in plan.nodes():
        relation, loops = node.get("Relation Name"), node["Actual Loops"]
        if node["Node Type"] == "Seq Scan" and relation in ("progress", "users", "subscriptions"):
            found.append(f"a sequential scan of {relation}")
        if node["Node Type"] in ("Seq Scan", "Bitmap Heap Scan") and relation in CATALOG and loops > 1:
            found.append(f"{relation} is read {loops} times")
        if node["Node Type"] == "CTE Scan" and loops > 5:
            found.append(f"{node['CTE Name']} is read {loops} times")
        # A scan without a name is of unnest() over several arrays, which has the plan of several functions.
        if node["Node Type"] == "Function Scan" and not node.get("Function Name", "unnest").startswith(
            ("pg_advisory", "json", "unnest")
        ):
            found.append(f"a scan of {node['Function Name']}()")
    return found


def budget(name: str) -> dict[str, int]:
    found = re.search(r"^-- Buffers: ([0-9]+) light, ([0-9]+) heavy$", (SQL / f"{name}.sql").read_text(), re.M)
    assert found, f"sql/{name}.sql does not say how many buffers it may touch"
    return {"light": int(found[1]), "heavy": int(found[2])}


@pytest.mark.parametrize("mode", plans.MODES)
@pytest.mark.parametrize("name", plans.names())
def test_a_plan_is_one_of_those_that_scale_and_stays_within_its_budget(middle, name, mode):
    allowed = budget(name)
    for learner in (middle.light, middle.heavy):
        plan = plans.explain(middle.connection, name, learner, mode)
        shown = "\n".join(plans.lines(plan.document))
        assert faults(plan) == [], shown
        assert plan.buffers <= allowed[learner.name], f"{plan.buffers} buffers for a {learner.name} learner\n{shown}"


# Completions of modules and courses, one for each that a learner began.
COMPLETED = """
    insert into module_completions (user_id, module_id, completed_at)
    select user_id, module_id, max(completed_at)
    from progress inner join lessons on lesson_id = lessons.id
    group by user_id, module_id;
    insert into course_completions (user_id, course_id, completed_at)
    select user_id, course_id, max(completed_at)
    from module_completions inner join modules on module_id = modules.id
    group by user_id, course_id;
"""


@pytest.mark.parametrize("mode", plans.MODES)
@pytest.mark.parametrize("name", plans.report_names())
def test_a_report_reads_each_row_a_few_times_and_stays_within_its_budget(middle, name, mode):
    """A report reads every completion, so it may scan a whole table. Nothing may grow with learners times lessons."""
    connection = middle.connection
    tables = ("progress", "lessons", "lesson_prerequisites", "users", "subscriptions", "enrollments")
    rows = sum(connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables)
    header = re.search(r"^-- Buffers: (.*)$", (SQL / f"{name}.sql").read_text(), re.M)
    assert header
    budgets = {case: int(buffers) for buffers, case in re.findall(r"(\d+) (course|all)", header[1])}
    cases = plans.report_cases(name, middle.light.course_id)
    assert set(budgets) == set(cases)
    with connection.transaction(force_rollback=True):
        connection.execute(COMPLETED)
        found = {case: plans.explain(connection, name, middle.light, mode, 1, **given) for case, given in cases.items()}
    connection.execute("vacuum module_completions, course_completions")
    for case, plan in found.items():
        shown = "\n".join(plans.lines(plan.document))
        assert [fault for fault in faults(plan) if not fault.startswith("a sequential scan of ")] == [], shown
        assert plan.visited() < 10 * rows, f"{plan.visited()} of {rows}\n{shown}"
        assert plan.buffers <= budgets[case], f"{plan.buffers} buffers for {case}\n{shown}"


# Other courses of the same form, with what two learners have completed in them.
COPYING = """
    create function pg_temp.other(id uuid, copy integer) returns uuid language sql immutable as
    'select regexp_replace(md5(id || '' '' || copy), ''^(.{8})(.{4}).(.{3}).(.{3})(.{12})$'',
    ''\\1-\\2-4\\3-8\\4-\\5'')::uuid';
    create temporary table first_courses as select * from courses;
    create temporary table first_modules as select * from modules;
    create temporary table first_lessons as select * from lessons;
    create temporary table first_prerequisites as select * from lesson_prerequisites;
    create temporary table first_progress as select * from progress where user_id in (%s, %s);
"""
COPIES = """
    insert into courses (id, title, position)
    select pg_temp.other(id, n), title, position
    from first_courses cross join generate_series(%(first)s, %(last)s) as n;
    insert into modules (id, course_id, title, position)
    select pg_temp.other(id, n), pg_temp.other(course_id, n), title, position
    from first_modules cross join generate_series(%(first)s, %(last)s) as n;
    insert into lessons (id, module_id, title, position, published, is_free)
    select pg_temp.other(id, n), pg_temp.other(module_id, n), title, position, published, is_free
    from first_lessons cross join generate_series(%(first)s, %(last)s) as n;
    insert into lesson_prerequisites (lesson_id, prerequisite_id)
    select pg_temp.other(lesson_id, n), pg_temp.other(prerequisite_id, n)
    from first_prerequisites cross join generate_series(%(first)s, %(last)s) as n;
    insert into progress (user_id, lesson_id, completed_at)
    select user_id, pg_temp.other(lesson_id, n), completed_at
    from first_progress cross join generate_series(%(first)s, %(last)s) as n;
"""


KEYS = """
    select count(*) + count(prerequisite_id) from lessons
    inner join modules on module_id = modules.id
    left join lesson_prerequisites on lessons.id = lesson_id
    where course_id = %s
"""


def rows_read(plan: plans.Plan) -> dict[str, int]:
    """How many rows a plan gets from each table, without the index of the unpublished lessons."""
    found: dict[str, int] = {}
    for node in plan.nodes():
        if "Relation Name" in node and node.get("Index Name") != "lessons_unpublished_idx":
            removed = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
            rows = round((node["Actual Rows"] + removed) * node["Actual Loops"])
            found[node["Relation Name"]] = found.get(node["Relation Name"], 0) + rows
    return found


def test_a_course_and_starting_over_cost_the_same_however_many_other_courses_there_are(new_database):
    """Ten courses, then fifty: five times as many modules, lessons, prerequisites, and completions of these learners.

    The plan reads the same rows of the catalog, by key. In a small index, several keys are on one page, and in a large
    one each key is on a page of its own. So the limit for the pages is a multiple of the keys.
    """
    url = new_database()
    scale.load(url, scale.SIZES["small"])
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        learners = [plans.learner(connection, "light", 30), plans.learner(connection, "heavy", 150)]
        connection.execute(COPYING.encode(), [learner.user_id for learner in learners])

        def explained(first: int, last: int) -> dict[tuple[str, str, str], plans.Plan]:
            connection.execute(COPIES.encode(), {"first": first, "last": last})
            connection.execute("vacuum (analyze, freeze)")
            return {
                (learner.name, mode, name): plans.explain(connection, name, learner, mode)
                for name in ("course", "start_over_course", "start_over_module")
                for learner in learners
                for mode in plans.MODES
            }

        # The lessons and prerequisites of the course, each of which is looked up for itself and in progress.
        keys = {
            learner.name: 2 * count[0]
            for learner in learners
            if (count := connection.execute(KEYS, [learner.course_id]).fetchone())
        }
        few, many = explained(1, 9), explained(10, 49)
        for case, plan in many.items():
            shown = "\n".join(plans.lines(plan.document))
            assert faults(plan) == [], shown
            before, after = rows_read(few[case]), rows_read(plan)
            for table in ("lesson_prerequisites", "lessons", "progress"):
                assert after.get(table, 0) == before.get(table, 0) < 350, f"{table}\n{shown}"
            assert plan.buffers < 3 * keys[case[0]], shown


@pytest.mark.parametrize("mode", plans.MODES)
@pytest.mark.parametrize("needs", [1, 3])
def test_a_list_of_500_lessons_that_need_each_other_is_marked_in_time_that_grows_with_the_list(
    new_database, needs, mode
):
    """A chain of 500 lessons has 500 rounds. No round reads all lessons again, and no join compares all with all."""
    draw = random.Random(22)
    url = new_database()
    migrate(url)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        add_user(connection)
        add_module(connection, 1)
        ids = [uuid4(number) for number in range(1000, 1500)]
        draw.shuffle(ids)
        connection.execute(
            "insert into lessons (id, module_id, title, position, published)"
            " select id, %s, '', 1, true from unnest(%s::uuid[]) as id",
            [uuid4(1), ids],
        )
        earlier = [[ids[place - 1]] if needs == 1 else draw.choices(ids[:place], k=needs) for place in range(1, 500)]
        pairs = {(lesson, needed) for lesson, all_needed in zip(ids[1:], earlier, strict=True) for needed in all_needed}
        connection.cursor().executemany("insert into lesson_prerequisites values (%s, %s)", list(pairs))
        connection.execute("vacuum (analyze)")
        draw.shuffle(ids)
        learner = plans.Learner("a learner", LEARNER, ids[0], uuid4(1), uuid4(2))
        listed, times = f"{{{','.join(ids)}}}", f"{{{','.join(['null'] * 500)}}}"
        plan = plans.explain(connection, "may_mark_lessons", learner, mode, lesson_ids=listed, completed_ats=times)
    shown = "\n".join(line[:200] for line in plans.lines(plan.document))
    rows = sum(node["Actual Rows"] * node["Actual Loops"] for node in plan.nodes())
    # All with all would be 250,000.
    assert rows + plan.removed < 60_000, shown
    assert plan.buffers < 10_000, shown


def test_every_index_is_needed_by_a_constraint_a_foreign_key_or_a_statement(middle):
    used = {
        node["Index Name"]
        for name in plans.names()
        for mode in plans.MODES
        for node in plans.explain(middle.connection, name, middle.light, mode).nodes()
        if "Index Name" in node
    }
    rows = middle.connection.execute(
        """
        select index.relname
        from pg_index
        inner join pg_class as index on pg_index.indexrelid = index.oid
        inner join pg_class as owner on pg_index.indrelid = owner.oid
        where
            owner.relnamespace = 'public'::regnamespace
            and owner.relname !~ 'yoyo'
            -- Of no constraint, and not first by a column that refers to another table.
            and not exists (select from pg_constraint where conindid = index.oid)
            and not exists (
                select from pg_constraint
                where contype = 'f' and conrelid = owner.oid and conkey[1] = pg_index.indkey[0]
            )
        """
    ).fetchall()
    assert {name for (name,) in rows} <= used | {  # the tables of these indexes are empty here
        "stripe_subscriptions_customer_id_idx",
        "stripe_subscriptions_unattached_idx",
        "stripe_checkouts_unattached_idx",
        "stripe_customers_unattached_idx",
        "stripe_checkouts_customer_id_idx",
        "stripe_checkouts_stripe_subscription_id_idx",
        "stripe_payments_claimed_user_id_idx",
        "events_due_idx",
        "events_delivered_idx",
        "events_given_up_idx",
    }


# Worse statements with the same answers. The tests above must notice them.


def test_a_sequential_scan_is_noticed(middle, monkeypatch):
    text = (SQL / "summary.sql").read_text()
    worse = text.replace("where user_id = :'user_id'::uuid\n),", "where user_id::text = :'user_id'::text\n),")
    assert worse != text
    assert "a sequential scan of progress" in faults(explained(middle, monkeypatch, worse, "force_custom_plan"))


def test_a_plan_that_explodes_under_the_generic_mode_is_noticed(middle, monkeypatch):
    """For an unknown learner, the planner expects few completions. With a join, it reads a table again for each one."""
    text = (SQL / "summary.sql").read_text()
    worse = text.replace(
        "from accessible_lessons\n    where\n        user_id = :'user_id'::uuid\n"
        "        and lesson_id not in (select lesson_id from locked)\n",
        "from accessible_lessons as lesson\n    where\n        user_id = :'user_id'::uuid\n"
        "        and not exists (select from locked where lesson_id = lesson.lesson_id or lesson_id is null)\n",
    )
    assert worse != text
    assert any("is read" in fault for fault in faults(explained(middle, monkeypatch, worse, "force_generic_plan")))


def explained(middle: Scale, monkeypatch: pytest.MonkeyPatch, text: str, mode: str) -> plans.Plan:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "worse.sql"
        file.write_text(text)
        monkeypatch.setitem(STATEMENTS, "worse", load(file))
    return plans.explain(middle.connection, "worse", middle.heavy, mode)
