"""Ids that are no UUIDs: Auth.js' own sessions have them, and a site's column has the UUIDs that the service knows."""

import json
import re
import subprocess
from contextlib import closing
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from app.user_ids import learner_id
from tests.pages import block
from tests.system.test_authjs import SECRET, V4, V5, made, status
from tests.world import add_user

# The folder with the package `uuid`.
FOLDER = Path(__file__).parent / "authjs"
SQL, TYPESCRIPT = block("sql", "uuid_generate_v5"), block("ts", "uuidv5")
NAMESPACE = re.findall(r"[0-9a-f-]{36}", SQL)[0]
IDS = ["clx1a2b3c0000abcd1234efgh", "github|7", "Ünïcødé 学习 🎓", " ", "'", "x" * 255]


def test_the_pages_typescript_gives_the_uuids_of_the_service():
    # Node.js runs JavaScript, so remove the types.
    javascript = re.sub(r": string( \| number)?|!(?=\))", "", TYPESCRIPT)
    ids = [*IDS, 7, 2**53]
    script = f"{javascript}\nconsole.log(JSON.stringify({json.dumps(ids)}.map(progressId)));"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=FOLDER,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "AUTH_USER_ID_NAMESPACE": NAMESPACE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [learner_id(each, UUID(NAMESPACE)) for each in ids]


@pytest.mark.parametrize(("column", "ids"), [("text", IDS), ("integer", [1, 7]), ("bigint", [2**62])])
def test_the_pages_column_has_the_uuids_of_the_service_for_old_users_and_new_ones(new_database, column, ids):
    with closing(psycopg.connect(new_database(), autocommit=True)) as site:
        site.execute(f'create table "User" (id {column} primary key)')
        for number, each in enumerate(ids):
            if number == 1:
                site.execute(SQL)
            site.execute('insert into "User" (id) values (%s)', [each])
        if len(ids) == 1:
            site.execute(SQL)
        rows = site.execute('select id, "progressId"::text from "User"').fetchall()
    assert dict(rows) == {each: learner_id(each, UUID(NAMESPACE)) for each in ids}


@pytest.mark.parametrize("user_id", IDS[:3])
def test_a_session_of_the_real_library_with_such_an_id_is_the_learner(gunicorn, db, user_id):
    learner = learner_id(user_id, UUID(NAMESPACE))
    assert learner
    add_user(db, learner)
    url = gunicorn(AUTH_SECRET=SECRET, AUTH_USER_ID_NAMESPACE=NAMESPACE, WEB_CONCURRENCY="1")
    for version, name in ((5, V5), (4, V4)):
        assert status(url, made(version, name, sub=user_id)) == 200
        assert status(url, made(version, name, sub=f"{user_id}x")) == 403
