"""The statements of events while a million wait, and hundreds of thousands that were delivered are kept.

What a statement reads depends on the events that it is about, and not on how many wait, are delivered or were given up.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.bench import plans

# A hundred thousand learners with ten waiting events each. The first event of every other learner is due, those of the
# others wait for another attempt. Three events of each learner were delivered, and some were given up.
FILLING = """
    set session_replication_role = replica;
    insert into users (id)
    select ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid from generate_series(1, 100000) as n;
    insert into events (user_id, webhook_id, type, data, delivered_at)
    select id, 'msg_1', 'lesson.completed', '{}', now() - number * interval '10 days' - interval '1 hour'
    from generate_series(1, 3) as number cross join users;
    insert into events (user_id, webhook_id, type, data, given_up_at)
    select id, 'msg_2', 'lesson.completed', '{}', now() from users limit 5000;
    insert into events (user_id, webhook_id, type, data, next_attempt_at)
    select
        users.id,
        'msg_3',
        'lesson.completed',
        '{}',
        case when number = 1 then now() + (place % 2 * 2 - 1) * place * interval '1 second' end
    from generate_series(1, 10) as number
    cross join (select id, row_number() over (order by id) as place from users) as users;
    set session_replication_role = origin;
    vacuum analyze events;
    vacuum analyze users
"""

CLAIMED = """
    update events set claimed_at = '2026-01-01T00:00:00Z'
    where user_id = any(%s::uuid[]) and next_attempt_at is not null
    returning json_build_object(
        'userId', user_id, 'id', id, 'claimedAt', claimed_at, 'delivered', true, 'status', 204
    )
"""


class Million(NamedTuple):
    connection: psycopg.Connection[Any]
    user_ids: list[str]  # sixteen learners
    attempts: list[dict[str, Any]]  # of their events that are due


@pytest.fixture(scope="module")
def million(migrated_database: Callable[[], str]) -> Iterator[Million]:
    with psycopg.connect(migrated_database(), autocommit=True) as connection:
        for statement in FILLING.split(";"):
            connection.execute(statement.encode())
        user_ids = [f"00000000-0000-4000-8000-{number * 2000:012x}" for number in range(1, 17)]
        attempts = [row for (row,) in connection.execute(CLAIMED, [user_ids])]
        assert len(attempts) == 16
        yield Million(connection, user_ids, attempts)


# The most buffers that a statement may touch. Sixteen events at a time are claimed and recorded, and a thousand are
# removed, listed or sent again.
BUDGETS = {
    "events/add": 40,
    "events/claim": 450,
    "events/lock": 20,
    "events/record": 350,
    "events/promote": 200,
    "events/expire": 9_000,
    "admin/events": 60,
    "admin/redeliver_given_up": 60,
    "admin/redeliver": 30_000,
}


@pytest.mark.parametrize("mode", plans.MODES)
@pytest.mark.parametrize("name", BUDGETS)
def test_a_statement_reads_what_it_is_about_and_no_more(million, name, mode):
    given = million.connection.execute(
        "select json_agg(json_build_object('user_id', user_id, 'id', id)) from"
        " (select user_id, id from events where given_up_at is not null order by given_up_at limit 1000) as given_up"
    ).fetchone()
    assert given
    user_ids = [row["user_id"] for row in given[0]] if name.startswith("admin/") else million.user_ids
    plan = plans.explain(
        million.connection,
        name,
        plans.Learner("light", million.user_ids[0], "", "", ""),
        mode,
        user_ids=f"{{{','.join(user_ids)}}}",
        attempts=json.dumps(million.attempts),
        chosen=json.dumps(given[0]),
    )
    shown = "\n".join(plans.lines(plan.document))
    scans = [node for node in plan.nodes() if node["Node Type"] == "Seq Scan"]
    assert [node for node in scans if node["Relation Name"] in ("events", "users")] == [], shown
    assert plan.buffers <= BUDGETS[name], f"{plan.buffers} buffers\n{shown}"
