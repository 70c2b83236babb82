"""The fixtures of all tests. A session of pytest has one PostgreSQL, which the real migrations have migrated.

Every table is emptied before each test.
"""

import gc
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import hypothesis
import psycopg
import pytest
import sqlparse
import testing.postgresql
from click.testing import CliRunner
from flask import Flask
from flask.testing import FlaskClient
from psycopg.conninfo import conninfo_to_dict

from app import cpus
from app.application import create_app
from app.cli import cli
from app.demo.postgres import bindir, owner, unprivileged
from app.service import service_of
from app.settings import from_environ
from tests import contract
from tests.world import SECRET

ROOT = Path(__file__).parent.parent
# The role that the service runs as; the tests themselves are the owner.
SERVICE = "progress_service"
# Values of plan_cache_mode: what PostgreSQL does by default, and the two kinds of plan that it chooses from.
AUTO = "auto"
MODES = ["force_generic_plan", "force_custom_plan"]

# Whether the proofs run long: thousands of examples, different ones each time. Otherwise they try the same few hundred.
DEEP = "PROGRESS_DEEP" in os.environ
hypothesis.settings.register_profile("quick", max_examples=100, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("deep", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("deep" if DEEP else "quick")

# At each run, yoyo splits all files of migrations/ into statements, which takes longer than the run itself. The tests
# run it hundreds of times, on the same files.
split = cache(sqlparse.split)
sqlparse.split = lambda text: list(split(text))  # type: ignore[assignment, misc]


def pytest_xdist_auto_num_workers() -> int:
    """Start two workers for each CPU: a worker uses its CPU for two thirds of the time. Otherwise it waits.

    It waits for processes to start, for locks, for the ends of timeouts and for pages.
    """
    return 2 * cpus.usable()


# The files that take longest, the longest first.
LONG_FILES = (
    *("test_migrations.py", "test_docs.py", "test_stripe.py", "test_demo.py", "test_faults.py", "test_worlds.py"),
    *("test_install.py", "test_citus.py", "test_event_crash.py", "test_schema.py", "test_stripe_courses.py"),
    *("test_rights.py", "test_limits.py", "test_site.py", "test_isolation.py", "test_reload.py", "test_events.py"),
    *("test_operation.py", "test_catalog.py", "test_crash.py", "test_model.py", "test_fuzz.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first, so that no worker begins one when the others have nothing left to do.

    By itself, xdist would begin with the files that have the most tests. Those with few tests take longest. Of tests
    with one id, xdist runs only one.
    """
    ids = Counter(item.nodeid for item in items)
    if len(ids) < len(items):
        raise pytest.UsageError(f"several tests have the id {ids.most_common(1)[0][0]}")
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep Python's garbage collector off during the collection, which makes a million objects that stay.

    To look through them again and again would take a fourth of the time. Afterwards these objects are left out.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def in_memory() -> Path | None:
    """Return a folder in memory with room for a database. Return None if there is none."""
    memory = Path("/dev/shm")
    room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 512 * 2**20
    return memory if room else None


class Postgresql(testing.postgresql.Postgresql):
    """A server as the library testing.postgresql starts it, but with the programs of the PostgreSQL wheel.

    It listens on a Unix socket only. PostgreSQL refuses to run as root, so under root it runs as another user.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            base_dir=tempfile.mkdtemp(dir=in_memory()),
            initdb=str(bindir() / "initdb"),
            postgres=str(bindir() / "postgres"),
            postgres_args="-F -c listen_addresses= -c max_connections=200 -c log_min_messages=warning",
            **settings,
        )

    def initialize(self) -> None:
        super().initialize()
        self._use_tmpdir = True  # otherwise the library would not delete a folder that was given as base_dir
        self.prefix = unprivileged(ROOT)

    def initialize_database(self) -> None:
        user = owner(ROOT)
        if user:
            for folder in (self.base_dir, *(Path(self.base_dir, name) for name in self.subdirectories)):
                os.chown(folder, *user)
        command = [*self.prefix, self.initdb, "-D", self.get_data_directory(), "-U", "postgres", "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.base_dir)

    def get_server_commandline(self) -> list[str]:
        return [*self.prefix, *super().get_server_commandline()]

    def url(self, database: str = "postgres") -> str:
        socket = quote(str(Path(self.base_dir, "tmp")), safe="")
        return f"postgresql://postgres@/{database}?host={socket}&port={self.settings['port']}"

    def is_server_available(self) -> bool:
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def poststart(self) -> None:
        pass  # the library would create its database `test` here, through a port that is not open


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgresql]:
    with Postgresql() as server:
        yield server


def create_database(server: Postgresql, template: str = "template1") -> str:
    """Make a database that is empty, or a copy of a template. Return its URL.

    PostgreSQL copies the files. Its default strategy, to write each page into the log too, takes twice the time.
    """
    name = f"test_{uuid.uuid4().hex}"
    with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
        connection.execute(f"create database {name} template {template} strategy file_copy")
    return server.url(name)


@pytest.fixture(scope="session")
def new_database(postgres: Postgresql) -> Callable[..., str]:
    """See create_database."""
    return partial(create_database, postgres)


@pytest.fixture(scope="session")
def migrated_database(new_database: Callable[..., str]) -> Callable[[], str]:
    """Return a function that makes a database with every migration and the role's rights, and returns its URL.

    Each database is a copy of a template, because a copy takes a tenth of the time of the migrations.
    """
    template = new_database()
    migrate(template)
    grant(template)
    return partial(new_database, str(conninfo_to_dict(template)["dbname"]))


@pytest.fixture(scope="session")
def database_url(migrated_database: Callable[[], str]) -> str:
    return migrated_database()


def migrate(url: str) -> None:
    """Apply the migrations, as `make migrate` does, but in this process."""
    done = CliRunner().invoke(cli, ["migrate"], env={"DATABASE_URL": url})
    assert done.exit_code == 0, done.output


def grant(url: str, role: str = SERVICE) -> None:
    """Give the service's role its rights with deploy/grants.sql, as an operator does."""
    command = [str(bindir() / "psql"), "-Xq", "-v", f"role={role}", "-f", "deploy/grants.sql", url]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def as_service(url: str) -> str:
    return url.replace("//postgres@", f"//{SERVICE}@")


@pytest.fixture(scope="session")
def environ(database_url: str) -> dict[str, str]:
    """Return the settings of the tests' service. Its role has only the rights of deploy/grants.sql."""
    return {"DATABASE_URL": as_service(database_url), "AUTH_JWT_SECRET": SECRET, "RATE_LIMIT_WRITES": ""}


@pytest.fixture(scope="session")
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        yield connection


def emptying(connection: psycopg.Connection) -> str:
    """Return the SQL that deletes every row of the service's tables. It includes the tables that later migrations add.

    The records of the migrations stay, and so does the key that a migration makes for the learners' tags. `delete`
    takes 0.1 ms for a table, `truncate` ten times that. With session_replication_role = replica, PostgreSQL checks no
    foreign key, so the order of the tables does not matter.
    """
    tables = connection.execute(
        "select format('%I', relname) from pg_class where relkind in ('r', 'p')"
        " and relnamespace = current_schema::regnamespace and relname !~ '^_?yoyo' and relname <> 'learner_tag_keys'"
    ).fetchall()
    deletes = [f"delete from {table}" for (table,) in tables]
    return "; ".join(["set session_replication_role = replica", *deletes, "reset session_replication_role"])


@pytest.fixture(scope="session")
def empty_tables(connection: psycopg.Connection) -> Callable[[], None]:
    """Return a function that empties the service's tables. A test drops the tables that it has made itself."""
    query = emptying(connection).encode()

    def empty() -> None:
        connection.execute(query)

    return empty


@pytest.fixture
def db(connection: psycopg.Connection, empty_tables: Callable[[], None]) -> psycopg.Connection:
    """Return the tests' connection to the database, after emptying its tables."""
    empty_tables()
    return connection


@pytest.fixture(scope="session")
def apps(environ: dict[str, str]) -> Iterator[dict[str, Flask]]:
    """Yield an application of the service for each value of plan_cache_mode."""
    made = {
        mode: create_app(
            from_environ(environ | {"DATABASE_URL": f"{environ['DATABASE_URL']}&options=-c%20plan_cache_mode%3D{mode}"})
        )
        for mode in (AUTO, *MODES)
    }
    for app in made.values():
        app.test_client_class = contract.Client
    yield made
    for app in made.values():
        service_of(app).pool.close()


@pytest.fixture
def plan_mode() -> str:
    """Return the plan_cache_mode of the connections behind `api`. A file or a test may replace this fixture."""
    return AUTO


@pytest.fixture
def api(plan_mode: str, apps: dict[str, Flask], db: psycopg.Connection) -> FlaskClient:
    """Return a client of the service."""
    return apps[plan_mode].test_client(use_cookies=False)


def both_plans() -> Any:
    """Return a fixture for a file whose subject is the SQL: with `plan_mode = both_plans()`, its tests run twice."""
    return pytest.fixture(lambda request: request.param, params=MODES)


# In such a file, this marks a test of what the service decides before or after the statement.
one_plan = pytest.mark.parametrize("plan_mode", [AUTO])


@pytest.fixture
def make_api(environ: dict[str, str], db: psycopg.Connection) -> Iterator[Callable[..., FlaskClient]]:
    """Yield a function that makes a client of a service with other settings."""
    made = []

    def make(**settings: str) -> FlaskClient:
        app = create_app(from_environ(environ | settings))
        made.append(app)
        app.test_client_class = contract.Client
        return app.test_client(use_cookies=False)

    yield make
    for app in made:
        service = service_of(app)
        service.pool.close()
        if service.key_set:
            service.key_set.close()


def send_signal(pids: Iterable[int], signal: int) -> None:
    """Send a signal to each process. Some may end before it reaches them: when others end, or by themselves."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal)


def free_port() -> int:
    """Return a port that nothing uses.

    It is below 32768, where Linux begins to take a port for each connection. Otherwise a connection of another test
    could get the port before the server starts that is to listen there.
    """
    while True:
        port = 12_000 + secrets.randbelow(20_000)  # hypothesis and some tests seed the module random
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Gunicorn(NamedTuple):
    """A running service: its URL, its master process, and the file with its standard output."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]


@contextmanager
def running_gunicorn(environ: dict[str, str], folder: Path = ROOT) -> Iterator[Gunicorn]:
    """Start a real gunicorn that serves the checkout in `folder`. Yield it when it answers."""
    port = int(environ.get("PORT") or free_port())
    # gunicorn's lines about each start and stop would only lengthen the output of the tests.
    level = [] if "LOG_LEVEL" in environ else ["--log-level", "warning"]
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", *level, "wsgi:app"]
    environ = {"PATH": "/usr/bin:/bin", "PORT": str(port), **environ}
    with (
        tempfile.NamedTemporaryFile(prefix="gunicorn-") as output,
        subprocess.Popen(command, cwd=folder, env=environ, stdout=output) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
                    break
                except OSError:
                    assert process.poll() is None, "gunicorn did not start"
                    assert time.monotonic() < deadline, "gunicorn does not answer"
                    time.sleep(0.05)
            yield Gunicorn(f"http://127.0.0.1:{port}", process, Path(output.name))
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def service_url(environ: dict[str, str]) -> Iterator[str]:
    """Yield the URL of a running service with two workers and the settings of the tests, one for all tests of a file.

    A test must not stop, reload or kill it.
    """
    with running_gunicorn(environ | {"WEB_CONCURRENCY": "2"}) as service:
        yield service.url


@pytest.fixture
def gunicorn(environ: dict[str, str]) -> Iterator[Callable[..., str]]:
    """Yield a function that starts a gunicorn with other settings and returns its URL."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_gunicorn(environ | settings)).url
