"""A process that tries mutants in its own copy of the checkout.

For each mutant it reads a line of JSON, and writes a line of JSON with the outcome. It starts one PostgreSQL for all
mutants. Each mutant gets a fork of this process. A new process would need a second to start Python and the libraries.
"""

import contextlib
import json
import os
import signal
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from psycopg.pq import ExecStatus

from app.database import statements
from tests import conftest

MAX_SECONDS = 240  # for all tests of one mutant; a mutant that hangs must end before it has taken all memory


class Given:
    """A plugin of pytest: it gives session fixtures values that exist already, and remembers the first failed test."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.failed = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        if fixturedef.argname not in self.values:
            return None
        value = self.values[fixturedef.argname]
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def prepares(url: str, file: Path) -> bool:
    """Return whether PostgreSQL can prepare a statement. If not, the check at the start would notice the mutant.

    A migration is applied instead. Only migrations with views have mutants, and they replace their views.
    """
    with closing(psycopg.connect(url)) as connection:
        if file.parts[0] == "migrations":
            with contextlib.suppress(psycopg.Error), connection.transaction():
                connection.execute(file.read_bytes())
                return True
            return False
        if file.stem == "session":
            connection.execute('create table sessions ("sessionToken" text, "userId" uuid, "expires" timestamptz)')
        if file.stem.startswith("import_") and file.stem != "import_begin":
            connection.execute(statements.STATEMENTS["admin/import_begin"].query)
        result = connection.pgconn.prepare(b"", statements.load(file, "sessions").query)
        return result.status == ExecStatus.COMMAND_OK


def outcome_of(file: Path, tests: list[str], given: Given) -> dict[str, Any]:
    """Run the tests in a fork. Return the outcome, the test that noticed the mutant, and the seconds."""
    started = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.alarm(MAX_SECONDS)
        out = os.open(os.environ["MUTATION_OUTPUT"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if file.parts[0] == "sql":
            name = file.relative_to("sql").with_suffix("").as_posix()
            statements.STATEMENTS[name] = statements.load(file)
        elif file.suffix == ".py":
            # Forget every module of the project, so that the tests import the mutant.
            for module in [name for name in sys.modules if name.split(".")[0] in ("app", "tests")]:
                del sys.modules[module]
        options = ["-x", "-q", "--tb=short", "--assert=plain", "-p", "no:cacheprovider"]
        files = [test for test in tests if test.endswith(".py")]
        # Run one file of tests at a time: the first one notices most mutants, and collecting all takes longer.
        code: int = pytest.ExitCode.NO_TESTS_COLLECTED
        for test in files:
            ended = pytest.main([*options, test, *tests[len(files) :]], plugins=[given])
            if ended != pytest.ExitCode.NO_TESTS_COLLECTED:
                code = ended
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                break
        os.write(writing, given.failed.encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        failed = pipe.read()
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the tests may have left servers behind
    seconds = round(time.monotonic() - started, 2)
    if os.WIFSIGNALED(status):
        return {"outcome": "killed", "by": "no end", "seconds": seconds}
    code = os.WEXITSTATUS(status)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not failed:
        output = Path(os.environ["MUTATION_OUTPUT"]).read_text()
        if "while loading conftest" not in output:
            raise RuntimeError(f"pytest ended with {code}: {output[-2000:]}")
        failed = "the import"
    return {"outcome": "survived" if code == 0 else "killed", "by": failed, "seconds": seconds}


def drop_others(server: conftest.Postgresql) -> None:
    """Drop the databases that the tests of a mutant have made, so that the next tests can use the names."""
    with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
        for (name,) in connection.execute("select datname from pg_database where datname like 'test_%'").fetchall():
            connection.execute(f'drop database "{name}" with (force)'.encode())


def main() -> None:
    """Read requests from standard input and answer them until the input ends."""
    # One failing example is enough. Hypothesis would take long to find the shortest one.
    hypothesis.settings.register_profile("mutation", max_examples=30, phases=[hypothesis.Phase.generate])
    hypothesis.settings.load_profile("mutation")
    with conftest.Postgresql() as server:
        with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
            connection.execute("create database migrated")
            conftest.migrate(server.url("migrated"))
            conftest.grant(server.url("migrated"))
            connection.execute("create database mutation template migrated")
        url = server.url("mutation")
        given = {"postgres": server, "database_url": url}
        copied = given | {"migrated_database": partial(conftest.create_database, server, "migrated")}
        for line in sys.stdin:
            request = json.loads(line)
            file = Path(request["file"])
            original = file.read_text()
            file.write_text(request.get("text", original))
            try:
                if file.suffix == ".sql" and not prepares(url, file):
                    answer = {"outcome": "invalid", "by": "", "seconds": 0.0}
                else:
                    values = given if file.parts[0] == "migrations" else copied
                    answer = outcome_of(file, request["tests"], Given(**values))
            finally:
                file.write_text(original)
                if file.parts[0] == "migrations":
                    prepares(url, file)
                drop_others(server)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
