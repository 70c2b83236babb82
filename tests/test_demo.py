"""`make run`, as `python -m app.demo` in a copy of the checkout: in odd folders, twice, and after every kind of end."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from app.database.readiness import known_migrations
from app.demo import postgres
from tests.conftest import ROOT, free_port, in_memory, send_signal

FIRST = "97bf898a-36fc-47fc-b870-01fc0c7fe554"


def copy_of_the_checkout(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("app", "sql", "migrations", "deploy"):
        # This copies Python's compiled files too. They are valid, because the copies keep the times of the sources.
        shutil.copytree(ROOT / name, folder / name)
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, folder)
    return folder


class Run:
    """A running demo, its output and its port."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = environ.get("PORT") or str(free_port())
        # The smallest environment in which it can run. Nobody can write to this HOME.
        clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "WEB_CONCURRENCY": "1", "PORT": self.port}
        if "PG_BINDIR" in os.environ:
            clean["PG_BINDIR"] = os.environ["PG_BINDIR"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.demo"],
            cwd=folder,
            env=clean | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    def wait_until_ready(self) -> "Run":
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            # The last line that the demo prints. With DATABASE_URL, the last line is another one.
            if "sql/summary.sql" in line or "serving DATABASE_URL" in line:
                return self
        raise AssertionError(f"it ended: {self.output}")

    def end(self) -> tuple[int, str]:
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, self.output + rest

    def get(self, path: str, learner: str) -> tuple[int, dict]:
        token = re.search(rf"^{learner}=(\S+)$", self.output, re.M)
        assert token
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/progress/{path}", headers={"Authorization": f"Bearer {token[1]}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def working_in(folder: Path) -> list[int]:
    """Return the ids of the processes whose working folder is the folder or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = (process / "cwd").readlink()
            if where.is_relative_to(folder) and "State:\tZ" not in (process / "status").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_until_nothing_works_in(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while working_in(folder):
        assert time.monotonic() < deadline, working_in(folder)
        time.sleep(0.02)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder for checkouts that every user may enter. pytest's own tmp_path is closed to other users."""
    base = Path(tempfile.mkdtemp(prefix="progress-", dir=in_memory()))
    base.chmod(0o755)
    yield base.resolve()
    send_signal(working_in(base.resolve()), signal.SIGKILL)
    wait_until_nothing_works_in(base.resolve())
    shutil.rmtree(base)


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    runs = []

    def start(folder: Path, **environ: str) -> Run:
        runs.append(Run(folder, **environ))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
        run.process.communicate(timeout=60)


def courses(run: Run, learner: str) -> list[dict]:
    listed: list[dict] = run.get("courses", learner)[1]["courses"]
    return listed


AWKWARD = {
    # Only this user may enter the folder `closed`. Under root, PostgreSQL runs as another user and must still reach it.
    "a space and umlauts below a closed folder": ("closed/mein Kurs/Fortschrittsüberprüfung äöü ß", signal.SIGINT),
    "a long path": ("/".join(["a-very-long-name-of-a-folder"] * 5), signal.SIGHUP),
}


@pytest.mark.parametrize(("name", "number"), AWKWARD.values(), ids=AWKWARD.keys())
def test_it_runs_in_any_folder_ends_by_a_signal_and_runs_again_with_its_data(folder, start, name, number):
    checkout = copy_of_the_checkout(folder / name)
    if name.startswith("closed"):
        (folder / "closed").chmod(0o700)
    run = start(checkout).wait_until_ready()
    assert run.get("summary", "FULL") == (200, {"percent": 0, "completedCount": 0, "totalCount": 322})
    assert run.get("summary", "FREE")[1]["totalCount"] < 322
    assert run.get("summary", "NONE")[1]["code"] == "not_enrolled"
    assert [(course["title"], course["totalCount"], course["lockedCount"]) for course in courses(run, "FULL")] == [
        ("JavaScript", 38, 121),
        ("The Odin Project", 284, 0),
    ]
    assert [course["title"] for course in courses(run, "BUYER")] == ["JavaScript"]
    assert stat.S_IMODE((checkout / ".local" / "secret").stat().st_mode) == 0o600
    assert (checkout / ".local" / "secret").read_text() not in run.output
    if name.startswith("closed"):  # one case is enough for the text: the folder's name is quoted in it
        assert_that_what_it_prints_can_be_pasted(run, checkout)
    token = re.search(r"^FULL=(\S+)$", run.output, re.M)
    assert token
    request = urllib.request.Request(
        f"http://127.0.0.1:{run.port}/api/progress/lessons/{FIRST}",
        method="POST",
        headers={"Authorization": f"Bearer {token[1]}"},
    )
    urllib.request.urlopen(request, timeout=60).close()
    # The lesson is the only one of its module. The demo's own receiver gets both events.
    deadline = time.monotonic() + 60
    while not {"lesson.completed", "module.completed"} <= {event["type"] for event in received(run)}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert_ends(run, number)
    again = start(checkout).wait_until_ready()
    # Neither the catalog is loaded again, nor the migrations run again.
    assert again.output.splitlines()[:2] == ["starting PostgreSQL in .local/postgres", ""]
    assert again.get("summary", "FULL")[1]["completedCount"] == 1
    assert_ends(again, signal.SIGTERM)


def received(run: Run) -> list[dict]:
    """Return the events that the receiver of the demo has got."""
    with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/demo/events?after=0", timeout=10) as answer:
        document: dict = json.load(answer)
    assert document["count"] == len(document["events"])
    return [each["event"] for each in document["events"]]


def assert_that_what_it_prints_can_be_pasted(run: Run, checkout: Path) -> None:
    # A person can paste all that the demo prints from the first token on. Interactive zsh does not know comments, so
    # these lines must have no character with a meaning for the shell.
    pasted = run.output[run.output.index("FULL=") :]
    assert not [line for line in pasted.splitlines() if line[:2] == "# " and re.search("""['";&|<>()`$]""", line)]
    # make would run this command. This checkout has no Makefile and no .venv.
    pasted = re.sub("^make stripe-event (.*)$", rf"\1 {sys.executable} -m app.demo.stripe_event", pasted, flags=re.M)
    answers = subprocess.run(["sh", "-ec", pasted], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert re.findall(r'"code": "(\w+)"', answers) == ["lesson_locked", "not_enrolled", "course_not_found"]
    assert answers.count('{"outcome": "applied"}') == 4
    # The white space is that of PostgreSQL or, if the mark has completed the module, that of Python.
    for completed in ("true", "false"):
        assert (
            len(re.findall(f'"lessonId" ?: "{FIRST}", (?:"moduleId"[^,]*, )?"completed" ?: {completed}', answers)) == 1
        )
    assert re.search(r"^ enrolled +\|", answers, re.M)


def assert_ends(run: Run, number: int) -> None:
    """Assert that a signal stops everything that runs in a checkout. A second signal must not disturb this."""
    run.process.send_signal(number)
    run.process.send_signal(number)
    status, output = run.end()
    assert (status, output.splitlines()[-1]) == (0, "stopping")
    wait_until_nothing_works_in(run.folder)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """Yield a checkout with a database. Tests that do not need a first start copy it."""
    base = Path(tempfile.mkdtemp(prefix="progress-", dir=in_memory())).resolve()
    base.chmod(0o755)
    checkout = copy_of_the_checkout(base / "checkout")
    run = Run(checkout).wait_until_ready()
    run.process.terminate()
    assert run.end()[0] == 0
    yield checkout
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def running(prepared: Path) -> Iterator[Run]:
    """Yield a running demo for the tests that change nothing."""
    run = Run(copy_with_owners(prepared, prepared.with_name("running"))).wait_until_ready()
    yield run
    run.process.terminate()
    run.end()


def copy_with_owners(source: Path, target: Path) -> Path:
    # Not shutil.copytree, which does not keep the owners of files.
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    return target


@pytest.fixture
def checkout(prepared: Path, folder: Path) -> Path:
    return copy_with_owners(prepared, folder / "checkout")


def test_a_database_of_a_demo_without_courses_gets_them_and_keeps_its_completions(checkout, start):
    server, url = postgres.start(checkout / ".local" / "postgres")
    with psycopg.connect(url) as connection:
        connection.execute("update modules set course_id = null")
        connection.execute("delete from course_enrollments")
        connection.execute("delete from courses")
        connection.execute(
            "insert into progress (user_id, lesson_id, completed_at) select id, %s, now() from users", [FIRST]
        )
    postgres.stop(server, checkout / ".local" / "postgres")
    again = start(checkout).wait_until_ready()
    assert [(course["title"], course["completedCount"]) for course in courses(again, "BUYER")] == [("JavaScript", 1)]
    assert again.get("summary", "FULL") == (200, {"percent": 0, "completedCount": 1, "totalCount": 325})


def test_a_signal_while_it_starts_leaves_nothing_running(checkout, start):
    run = start(checkout)
    assert run.process.stdout
    assert run.process.stdout.readline() == "starting PostgreSQL in .local/postgres\n"
    run.process.terminate()
    assert run.end()[0] == 0
    wait_until_nothing_works_in(checkout)


def test_a_signal_between_the_start_of_a_process_and_its_variable_waits_for_the_variable():
    code = """if True:
        import os, signal
        from app.demo import __main__ as demo
        started = None
        try:
            with demo._signals_held():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                started = "started"
        except KeyboardInterrupt:
            print(started)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "started\n"


def test_a_closed_terminal_leaves_nothing_running_though_only_the_leader_of_its_session_hears_of_it(checkout):
    # This shell behaves as make does if a terminal was opened for make alone: it waits for its child, and passes no
    # signal on.
    leader = ["setsid", "--ctty", "sh", "-c", 'trap "" HUP; "$0" -m app.demo; :', sys.executable]
    ours, terminal = os.openpty()
    environ = os.environ | {"WEB_CONCURRENCY": "1", "PORT": str(free_port())}
    process = subprocess.Popen(leader, cwd=checkout, env=environ, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    try:
        output = b""
        while b"sql/summary.sql" not in output:
            output += os.read(ours, 65536)
        os.close(ours)
        wait_until_nothing_works_in(checkout)
    finally:
        process.kill()
        process.wait()


def test_a_second_one_in_the_same_checkout_says_where_the_first_is(running, start):
    assert start(running.folder).end() == (1, f"already running at http://127.0.0.1:{running.port}\n")
    assert running.get("summary", "FULL")[0] == 200


def test_after_a_power_cut_it_starts_beside_another_one_whose_server_the_pid_files_name_now(running, checkout, start):
    """After a power cut, the numbers in the pid files may be those of processes of others."""
    others = (running.folder / ".local" / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0]
    database = checkout / ".local" / "postgres"
    content = f"{others}\n{database / 'data'}\n1700000000\n5432\n{database}\n\n  5432001         0\nready   \n"
    (database / "data" / "postmaster.pid").write_text(content)
    (database / ".s.PGSQL.5432.lock").write_text(content)
    other = start(checkout).wait_until_ready()
    assert [run.get("summary", "FULL")[0] for run in (running, other)] == [200, 200]


def test_a_port_that_is_taken_is_one_line(checkout, start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert start(checkout, PORT=str(port)).end() == (
            1,
            f"PORT: 127.0.0.1:{port} cannot be used: Address already in use; choose another: make run PORT=8001\n",
        )
    assert start(checkout, PORT="http").end() == (1, "PORT: 'http' is not a whole number from 1 to 65535\n")


def test_it_starts_after_everything_was_killed_and_after_the_supervisor_alone_was(checkout, start):
    run = start(checkout).wait_until_ready()
    send_signal(working_in(checkout), signal.SIGKILL)
    run.end()
    wait_until_nothing_works_in(checkout)
    again = start(checkout, PORT=run.port).wait_until_ready()
    assert again.get("summary", "FULL")[0] == 200
    assert again.output != run.output
    again.process.kill()
    again.process.wait()
    # gunicorn and PostgreSQL of the killed demo still run. The new demo uses another port, and takes over the database.
    third = start(checkout).wait_until_ready()
    assert third.get("summary", "FULL")[0] == 200
    third.process.terminate()
    assert third.end()[0] == 0
    send_signal(working_in(checkout), signal.SIGKILL)  # the gunicorn of the killed demo


DEMO_PAGE = {
    "/": "text/html; charset=utf-8",
    "/demo/page.js": "text/javascript; charset=utf-8",
    "/demo/icon.svg": "image/svg+xml; charset=utf-8",
    "/demo/session": "application/json",
    "/demo/events": "application/json",
}


def fetch(
    run: Run, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str, str | None]:
    """Return the status, the content type and the cookie of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{run.port}{path}", body, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.headers["Set-Cookie"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.headers["Set-Cookie"]


def test_the_page_and_its_sign_in_are_there(running):
    assert f"Open http://127.0.0.1:{running.port}/ in a browser" in running.output
    for path, content_type in DEMO_PAGE.items():
        assert fetch(running, path) == (200, content_type, None)
    json_body = {"Content-Type": "application/json"}
    status, _, cookie = fetch(running, "/demo/session", b'{"learner": "free"}', json_body)
    assert status == 200
    assert cookie
    assert re.fullmatch(
        r"authjs\.session-token=[\w.-]+; Expires=[^;]+; Max-Age=43200; HttpOnly; Path=/; SameSite=Lax", cookie
    )
    session = {"Cookie": cookie.partition(";")[0]}
    assert fetch(running, "/api/progress/summary", headers=session)[0] == 200
    for body in (b"", b"[]", b'{"learner": "root"}', b'{"learner": ["full"]}', b'{"learner": "full"'):
        assert fetch(running, "/demo/session", body, json_body) == (400, "application/problem+json", None)
    # The receiver takes nothing that is not signed.
    for headers in (
        {},
        {"webhook-id": "msg_1", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,"},
    ):
        assert fetch(running, "/demo/webhook", b"{}", headers) == (400, "application/problem+json", None)
    assert received(running) == []
    foreign = json_body | {"Origin": "https://elsewhere.example"}
    assert fetch(running, "/demo/session", b'{"learner": "full"}', foreign) == (403, "application/problem+json", None)


def test_with_database_url_it_serves_that_database_as_it_is(folder, start, environ, db):
    checkout = copy_of_the_checkout(folder / "checkout")
    run = start(checkout, **environ).wait_until_ready()
    assert run.output.strip() == f"serving DATABASE_URL at http://127.0.0.1:{run.port} (Ctrl-C stops it)"
    for path in DEMO_PAGE:
        assert fetch(run, path) == (404, "application/problem+json", None)
    assert fetch(run, "/progress-ui/progress-ui.js")[:2] == (200, "text/javascript; charset=utf-8")
    assert db.execute("select count(*) from users").fetchone() == (0,)
    assert not (checkout / ".local" / "postgres").exists()


def test_with_database_url_nothing_is_migrated_and_no_secret_is_made(folder, start, new_database, environ):
    checkout = copy_of_the_checkout(folder / "checkout")
    status, output = start(checkout, **environ | {"DATABASE_URL": new_database()}).end()
    assert (status, output) == (
        1,
        f"pending migrations: {', '.join(known_migrations())}; apply them with: make migrate\n",
    )
    status, output = start(checkout, DATABASE_URL=environ["DATABASE_URL"]).end()
    assert (status, output.split(":")[0]) == (1, "AUTH_SECRET")
