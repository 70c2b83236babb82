"""A primary and its standby behind one name: which server is used after a failover, and what is answered meanwhile."""

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from flask.testing import FlaskClient

from app.database import readiness
from app.demo.postgres import bindir, owner
from app.service import service_of
from app.settings import from_environ
from app.tasks import reports
from tests.conftest import ROOT, Postgresql, as_service, grant, migrate, running_gunicorn
from tests.load import Answer, Load, fill, in_table
from tests.test_cli import run as cli
from tests.world import SECRET, add_course, assert_problem, bearer, lesson_path, uuid4

# Both servers use this port, and differ in the folder of their socket. In the same way, two hosts behind one name have
# different addresses.
PORT = 5432


class Server(Postgresql):
    """A server on PORT that can be killed, so that no client is told."""

    def __init__(self) -> None:
        super().__init__(port=PORT)

    def kill(self) -> None:
        os.kill(self.server_pid, signal.SIGQUIT)
        self.child_process.wait()
        self.child_process: Any = None


class Standby(Server):
    """A hot standby: a copy of a primary that replays what the primary writes."""

    def __init__(self, primary: Server) -> None:
        self.primary = primary
        super().__init__()

    def initialize_database(self) -> None:
        user = owner(ROOT)
        if user:
            for folder in (self.base_dir, *(Path(self.base_dir, name) for name in self.subdirectories)):
                os.chown(folder, *user)
        command = [*self.prefix, str(bindir() / "pg_basebackup"), "-d", self.primary.url()]
        command += ["-D", self.get_data_directory(), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        subprocess.run(command, check=True, cwd=self.base_dir)


class Pair(NamedTuple):
    """Both servers, and the name that clients use: a symbolic link to the folder of one server's socket."""

    primary: Server
    standby: Standby
    name: Path

    def point_to(self, server: Server) -> None:
        new = self.name.with_name("new")
        new.symlink_to(Path(server.base_dir, "tmp"))
        new.rename(self.name)

    def url(self, **parameters: str) -> str:
        given = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"postgresql://postgres@/postgres?host={self.name}&port={PORT}{given}"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Server() as primary:
        migrate(primary.url())
        grant(primary.url())
        with closing(psycopg.connect(primary.url(), autocommit=True)) as db:
            fill(db)
        with Standby(primary) as standby:
            with closing(psycopg.connect(primary.url(), autocommit=True)) as db:
                # The primary acknowledges a commit only when the standby has it, so a failover loses no answered write.
                db.execute("alter system set synchronous_standby_names = '*'")
                db.execute("select pg_reload_conf()")
                while db.execute("select from pg_stat_replication where sync_state = 'sync'").rowcount == 0:
                    pass
            pair = Pair(primary, standby, tmp_path / "name")
            pair.point_to(primary)
            yield pair


def promote(server: Server) -> None:
    with closing(psycopg.connect(server.url(), autocommit=True)) as db:
        assert db.execute("select pg_promote()").fetchone() == (True,)


def assert_no_answer_is_wrong(answers: list[Answer]) -> None:
    """Assert that each count has every mark that was answered before, and no mark that was never sent."""
    sent: dict[str, set[str]] = defaultdict(set)
    answered: dict[str, set[str]] = defaultdict(set)
    for answer in answers:
        assert answer.status in (200, 503), answer
        if answer.method == "POST":
            sent[answer.learner].add(answer.lesson)
            if answer.status == 200:
                answered[answer.learner].add(answer.lesson)
        if answer.status == 200:
            counts = answer.document.get("overall", answer.document)
            assert len(answered[answer.learner]) <= counts["completedCount"] <= len(sent[answer.learner]), answer
        else:
            assert answer.document["code"] == "unavailable"
            assert int(answer.retry_after or 0) >= 1


def test_after_a_failover_the_service_is_on_the_new_primary(pair):
    environ = {"DATABASE_URL": as_service(pair.url()), "AUTH_JWT_SECRET": SECRET, "WEB_CONCURRENCY": "2"}
    # With the limit on, a write first reads an unlogged table. A standby refuses that with another error than a write.
    environ["RATE_LIMIT_WRITES"] = "100000 per minute"
    with running_gunicorn(environ) as service, Load(service.url) as load:
        load.wait_for_more()
        pair.primary.kill()
        load.wait_for(lambda answers: {answer.method for answer in answers if answer.status == 503} == {"POST", "GET"})
        # The old primary comes back as a standby. The name still points to it.
        Path(pair.primary.get_data_directory(), "standby.signal").touch()
        pair.primary.start()
        load.wait_for(lambda answers: len(answers) > 100)
        assert {answer.status for answer in load.answers[-50:]} == {503}
        promote(pair.standby)
        pair.point_to(pair.standby)
        promoted = time.monotonic()
        load.wait_for_more()
        load.wait_for(lambda answers: len(answers) > 100 and {answer.status for answer in answers[-50:]} == {200})
    assert_no_answer_is_wrong(load.answers)
    refused = max(answer.ended for answer in load.answers if answer.status == 503)
    assert refused - promoted < 2
    with closing(psycopg.connect(pair.standby.url(), autocommit=True)) as db:
        assert load.marked() - in_table(db) == set()


def start_check(url: str) -> None:
    readiness.check(from_environ({"DATABASE_URL": as_service(url), "AUTH_JWT_SECRET": SECRET}))


def test_a_standby_is_not_served_from_whatever_the_url_says(pair, make_api):
    pair.point_to(pair.standby)
    with pytest.raises(readiness.NotReadyError, match=r"^DATABASE_URL: no connection: .* session is read-only$"):
        start_check(pair.url())
    with pytest.raises(
        readiness.NotReadyError, match=r"^DATABASE_URL: this server is a standby, which takes no writes"
    ):
        start_check(pair.url(target_session_attrs="any"))
    url = as_service(pair.url(target_session_attrs="any"))
    limited = make_api(DATABASE_URL=url, RATE_LIMIT_WRITES="10 per minute")
    for api in (limited, make_api(DATABASE_URL=url)):
        answer = api.get("/readyz")
        assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "unavailable", "2")
        assert answer.json["detail"] == "This server is a standby, which takes no writes; name the primary."
        for method in ("POST", "DELETE"):
            before = backend(api)
            answer = api.open(lesson_path(0x1000), method=method, headers=bearer(uuid4(0xC0)))
            assert_problem(answer, "unavailable")
            assert backend(api) != before
    promote(pair.standby)
    for api in (limited, make_api(DATABASE_URL=url)):
        assert api.get("/readyz").status_code == 200
        assert api.post(lesson_path(0x1000), headers=bearer(uuid4(0xC0))).status_code == 200
    start_check(pair.url())


def backend(api: FlaskClient) -> int:
    with service_of(api.application).pool.connection() as connection:
        return int(connection.info.backend_pid)


def test_a_task_that_writes_refuses_a_standby_and_one_that_reads_does_not(pair):
    pair.point_to(pair.standby)
    for command in ("access", "progress", "migration-status"):
        assert cli(pair.url(), command, USER=uuid4(0xC0))[0] == 0
    with closing(psycopg.connect(pair.primary.url(), autocommit=True)) as db:
        db.execute("set synchronous_commit = remote_apply")  # then the standby shows what was committed
        add_course(db, 0xA)
    for name in reports.NAMES:
        given = {"COURSE": uuid4(0xA)} if name == "learners" else {}
        status, _, err = cli(pair.url(), "report", NAME=name, **given)
        assert (status, err) == (0, "")
    for command in ("grant-free", "revoke-free", "add-user", "migrate", "rollback", "migrate-unlock"):
        status, out, err = cli(pair.url(), command, USER=uuid4(0xC0))
        assert (status, out, len(err.splitlines())) == (1, "", 1)
        assert err.startswith("Error: DATABASE_URL: ")
        assert "session is read-only" in err
