"""The plans of sql/, on a thousand lessons, generic and custom: how much they read, and what they must not do.

Each file says in its header how many buffers it may touch, for a learner with 30 completions and for one with 500.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import psycopg
import pytest

from app.database.statements import SQL, STATEMENTS, load
from tests.bench import plans, scale

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
        if node["Node Type"] == "Function Scan" and not node["Function Name"].startswith(
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
