"""What happens between the two trips of a mark: the one that asks, and the one that writes."""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from flask.testing import FlaskClient

from tests.test_concurrency import in_background, wait_until_blocked
from tests.world import LEARNER, add_module, add_user, assert_problem, completions, mark, ok, uuid4


@pytest.fixture
def between(db, database_url) -> Iterator[psycopg.Connection]:
    """Yield a connection whose transaction lets no mark be written. What it changes, only the second trip sees."""
    add_user(db)
    add_module(db, 1, 0x11, 0x12)
    with closing(psycopg.connect(database_url)) as other:
        other.execute("lock table progress in share row exclusive mode")  # may_mark.sql only reads the table
        yield other


def test_a_mark_whose_access_ends_between_its_trips_is_made(api: FlaskClient, db, between):
    with in_background(lambda: mark(api, 0x11)) as answers:
        wait_until_blocked(db)
        between.execute("update subscriptions set current_period_end = now()")
        between.commit()
    assert ok(answers[0])["completed"] is True
    assert [(user_id, lesson_id) for user_id, lesson_id, *_ in completions(db)] == [(LEARNER, uuid4(0x11))]
    assert_problem(mark(api, 0x12), "not_enrolled")


def test_a_lesson_that_is_deleted_between_the_trips_of_its_mark_is_not_found(api: FlaskClient, db, between):
    with in_background(lambda: mark(api, 0x11)) as answers:
        wait_until_blocked(db)
        between.execute("delete from lessons where id = %s", [uuid4(0x11)])
        between.commit()
    assert_problem(answers[0], "lesson_not_found")
    assert completions(db) == []


def test_a_module_that_loses_its_last_open_lesson_between_the_trips_is_completed_by_the_next_mark(
    api: FlaskClient, db, between
):
    with in_background(lambda: mark(api, 0x11)) as answers:
        wait_until_blocked(db)
        between.execute("update lessons set published = false where id = %s", [uuid4(0x12)])
        between.commit()
    # The first trip saw an open lesson, so the mark came before the change.
    assert "completions" not in ok(answers[0])
    assert ok(mark(api, 0x11))["completions"][0]["moduleId"] == uuid4(1)
