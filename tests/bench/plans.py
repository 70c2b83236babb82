"""How PostgreSQL runs a statement of sql/: its plan for one learner, custom or generic."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg

from app.database.statements import SQL as FOLDER
from app.database.statements import STATEMENTS, load

MODES = ("force_generic_plan", "force_custom_plan")
# Values of the parameters that do not depend on the learner.
VALUES = {
    "tables": '["users", "progress", "lessons", "subscriptions"]',
    "course_id": "00000000-0000-4000-8000-00000000000c",
    "completed_at": "now",
    "completed_ats": "{null}",
    "to_mark_ats": "{2026-01-01T00:00:00Z}",
    "module_completed_ats": "{2026-01-01T00:00:00Z}",
    "course_completed_ats": "{2026-01-01T00:00:00Z}",
    "expires_at": "2030-01-01T00:00:00Z",
    "email": "learner@example.org",
    "name": "A learner",
    "key": "a key",
    "amount": "10",
    "window": "60",
    "customer_id": "cus_1",
    "stripe_id": "cus_1",
    "source": "pi_1",
    "payment_intent_id": "pi_1",
    "refunded_at": "1795478400",
    "refund_failed_at": "1795478300",
    "dispute_lost_at": "1795478400",
    "course_ids": "{00000000-0000-4000-8000-0000000000c0}",
    "ids": "{00000000-0000-4000-8000-0000000000c0}",
    "stripe_subscription_id": "sub_1",
    "status": "active",
    "current_period_end": "1924992000",
    "event_id": "evt_1",
    "event_type": "updated",
    "event_created": "1795478400",
    "object": "{}",
    "previous_attributes": "{}",
    "quoted_site_id": '"site-1"',
    "rivals": "[]",
    "items": "[]",
    "checkout_session_id": "cs_1",
    "session_created": "1795478400",
    "prices": "{}",
    "grace": "3600",
    "since": "",
    "after": "00000000-0000-0000-0000-000000000000",
    "session_token": "a token",
    "limit": "16",
    "webhook_id": "msg_1",
    "attempts": '[{"userId": "00000000-0000-4000-8000-000000000001", "id": 1, "claimedAt": "2026-01-01T00:00:00Z"}]',
    "chosen": '[{"user_id": "00000000-0000-4000-8000-000000000001", "id": 1}]',
    "events": '[{"type": "lesson.completed", "data": {}}, {"type": "module.completed", "data": {}}]',
    "catalog": '{"courses": [], "modules": [], "lessons": [], "prerequisites": [], "left_out": []}',
}


class Learner(NamedTuple):
    """A learner of the scale data, with a lesson that the learner may take next, its module and its course."""

    name: str
    user_id: str
    lesson_id: str
    module_id: str
    course_id: str


class Plan(NamedTuple):
    """One run of a statement: its plan, the pages that it touched, the rows that it read and dropped, its time."""

    document: dict[str, Any]
    buffers: int
    removed: int
    milliseconds: float

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yield every node of the plan, the root first."""
        yield from _nodes(self.document)

    def visited(self) -> int:
        """Return how many rows all nodes of the plan made, and dropped."""
        return int(sum(node["Actual Rows"] * node["Actual Loops"] for node in self.nodes()) + self.removed)

    def shape(self) -> list[str]:
        """Return the nodes of the plan, with the tables and indexes that they read, to compare two plans."""
        return [
            " ".join(str(node[key]) for key in ("Node Type", "Join Type", "Relation Name", "Index Name") if key in node)
            for node in self.nodes()
        ]


def lines(node: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield a plan as text: a line for each node, and below it the conditions by which the node filters."""
    words = [
        node["Node Type"],
        *(str(node[key]) for key in ("Join Type", "Relation Name", "Index Name") if key in node),
    ]
    name = f"{node['Subplan Name']}: " if "Subplan Name" in node else ""
    buffers = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    indent = "  " * depth
    yield (
        f"{indent}{name}{' '.join(words)}  (rows {node['Actual Rows']} of {node['Plan Rows']} expected,"
        f" loops {node['Actual Loops']}, buffers {buffers})"
    )
    for key in ("Index Cond", "Hash Cond", "Join Filter", "Filter", "Recheck Cond", "Sort Key"):
        if key in node:
            yield f"{indent}    {key}: {node[key]}"
    for child in node.get("Plans", ()):
        yield from lines(child, depth + 1)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def learner(connection: psycopg.Connection[Any], name: str, completions: int) -> Learner:
    """Find the first learner with full access and this number of completions, and the learner's next lesson."""
    user = connection.execute(
        "select user_id::text from progress inner join subscriptions using (user_id) where status = 'active'"
        " group by user_id having count(*) = %s order by user_id limit 1"
        if completions
        else "select user_id::text from subscriptions where status = 'active' and not exists"
        " (select from progress where progress.user_id = subscriptions.user_id) order by user_id limit 1",
        [completions] if completions else [],
    ).fetchone()
    assert user, f"nobody has completed {completions} lessons"
    lesson = connection.execute(
        "select lesson.id::text, module_id::text, course_id::text from lessons as lesson"
        " inner join modules on module_id = modules.id where published and lesson.id not in"
        " (select lesson_id from progress where user_id = %s) and not exists"
        " (select from lesson_prerequisites where lesson_id = lesson.id) order by lesson.id limit 1",
        [user[0]],
    ).fetchone()
    assert lesson
    return Learner(name, user[0], *lesson)


def names() -> list[str]:
    """Return the name of every statement of sql/ whose plan can be good or bad, without the reports.

    `lock table` has no plan. The statements of an import read a whole file, and an export reads every completion.
    """
    without_plan = {"admin/catalog_lock", "stripe/apply_terms_lock", "admin/export_progress", *report_names()}
    names = {name for name in STATEMENTS if not name.startswith("admin/import_")}
    return sorted(names - without_plan, key=lambda name: ("/" in name, name))


def report_names() -> list[str]:
    """Return the names of the reports, which are about many learners at once."""
    return sorted(name for name in STATEMENTS if name.startswith("reports/"))


def report_cases(name: str, course_id: str) -> dict[str, dict[str, str]]:
    """Return the cases that a report is measured in, with its parameters: one course, and everything if it may be."""
    cases = {"course": {"course_id": course_id}, "all": {"course_id": ""}}
    if name == "reports/learners":
        del cases["all"]
    if name == "reports/courses":
        del cases["course"]
    return cases


def explain(
    connection: psycopg.Connection[Any], name: str, learner: Learner, mode: str, runs: int = 1, **given: str
) -> Plan:
    """Run a statement `runs` times, after one run that fills the caches. Return the fastest run.

    A parameter has the value that is given here, else that of the learner or of VALUES. Each run is rolled back. The
    connection must be in autocommit mode.
    """
    statement = STATEMENTS[name]
    if name == "session":
        statement = load(FOLDER / "session.sql", "pg_temp.sessions")
        connection.execute(
            'create temporary table if not exists sessions ("sessionToken" text primary key, "userId" uuid,'
            ' "expires" timestamptz)'
        )
    values = VALUES | learner._asdict() | {"claimed_user_id": learner.user_id, "user_ids": f"{{{learner.user_id}}}"}
    values["lesson_ids"] = values["to_mark"] = f"{{{learner.lesson_id}}}"
    values["module_ids"], values["course_ids"] = f"{{{learner.module_id}}}", f"{{{learner.course_id}}}"
    values |= given
    if name == "learners/add":
        values["user_id"] = "00000000-0000-4000-8000-00000000feed"
    arguments = ", ".join("'" + str(values[parameter]).replace("'", "''") + "'" for parameter in statement.parameters)
    connection.execute(f"set plan_cache_mode = {mode}".encode())
    connection.execute(b"prepare explained as " + statement.query)
    run = f"execute explained{f'({arguments})' if arguments else ''}"
    plans = []
    try:
        for _ in range(runs + 1):
            with connection.transaction(force_rollback=True):
                row = connection.execute(
                    f"explain (analyze, timing off, buffers, format json) {run}".encode()
                ).fetchone()
                assert row
                plans.append(_read(row[0][0]))
    finally:
        connection.execute("deallocate explained; reset plan_cache_mode")
        if name.startswith("admin/catalog"):
            # The rows of the runs that were rolled back are still in the table, and every later run would read them.
            connection.execute("vacuum courses, modules, lessons, lesson_prerequisites")
            connection.execute("reindex table lessons")
        if name.startswith(("start_over", "admin/erase")):
            # The deletes that were rolled back have touched many pages of progress. Every later run would visit them.
            connection.execute("vacuum progress")
    return min(plans[1:], key=lambda plan: plan.milliseconds)


def _read(document: dict[str, Any]) -> Plan:
    root = document["Plan"]
    removed = sum(
        value * node.get("Actual Loops", 1)
        for node in _nodes(root)
        for key, value in node.items()
        if key.startswith("Rows Removed by")
    )
    return Plan(root, root["Shared Hit Blocks"] + root["Shared Read Blocks"], int(removed), document["Execution Time"])
