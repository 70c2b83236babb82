"""How much goes over the wire, behind the nginx of deploy/nginx.conf."""

import gzip
import http.client
import json
import random
from contextlib import closing

import pytest

# Fixtures are found by their names.
from tests.system.test_deploy import folder, nginx  # noqa: F401
from tests.world import LEARNER, add_user, bearer, load_curricula

LESSONS = 450
MAX_BYTES = 25_000


@pytest.fixture
def curricula(db, database_url, tmp_path):
    """Load 450 lessons that the learner may take: the two real curricula of the demo, with all that is published."""
    add_user(db)
    load_curricula(database_url, tmp_path)
    db.execute("update lessons set published = true")
    db.execute(
        "update lessons set published = false where id in (select id from lessons order by id offset %s)", [LESSONS]
    )


def test_an_outline_of_450_lessons_is_small_on_the_wire(nginx, gunicorn, curricula, db):  # noqa: F811
    """Also at the worst: a learner who has completed every lesson, each at a time of its own."""
    site = nginx(gunicorn(WEB_CONCURRENCY="1"))
    draw = random.Random(1)
    lessons = [row[0] for row in db.execute("select id from lessons where published order by id").fetchall()]
    for completed in (0, LESSONS // 2, LESSONS):
        db.execute("delete from progress")
        with db.cursor() as cursor:
            cursor.executemany(
                "insert into progress (user_id, lesson_id, completed_at)"
                " values (%s, %s, timestamptz '2026-01-01' + %s * interval '1 second')",
                [(LEARNER, lesson, draw.uniform(0, 20_000_000)) for lesson in lessons[:completed]],
            )
        connection = http.client.HTTPConnection("www.example.org", site.port)
        connection.sock = site.connect()
        with closing(connection):
            connection.request("GET", "/api/progress/outline", headers=bearer() | {"Accept-Encoding": "gzip"})
            response = connection.getresponse()
            body = response.read()
        assert (response.status, response.headers["Content-Encoding"]) == (200, "gzip")
        outline = json.loads(gzip.decompress(body))
        assert sum(len(module["lessons"]) for module in outline["modules"]) == LESSONS
        assert len(body) < MAX_BYTES, completed
