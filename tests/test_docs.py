"""What the documents say is so: settings, tasks, calls, and every shell block, run as it stands."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import checks, cpus, settings
from app.demo import postgres
from app.problems import CODES
from app.sessions import bearer
from app.sessions.refusals import MAX_TOKEN_BYTES, NO_SESSION, REASONS
from app.stripe import webhook
from tests.conftest import ROOT, free_port
from tests.contract import DOCUMENT
from tests.test_demo import copy_of_the_checkout, folder, wait_until_nothing_works_in  # noqa: F401
from tests.test_errors import FAULTS
from tests.test_locks import LOCKS

README = (ROOT / "README.md").read_text()
DBAS = (ROOT / "sql" / "README.md").read_text()
SOURCES = [*(ROOT / "app").rglob("*.py"), ROOT / "gunicorn.conf.py"]


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section
    rows = re.findall(r"^\|(.*)\|$", section[1], re.M)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows[2:]]


def test_the_settings_table_is_what_the_code_reads_and_assumes():
    read: dict[str, str] = {}

    class Recorder(dict[str, str]):
        def get(self, name, default=None):
            return read.setdefault(name, super().get(name, default))

    given = Recorder(DATABASE_URL="postgresql:///x", AUTH_JWT_SECRET="x" * 32)
    assumed = settings.from_environ(given)
    documented: dict[str, str] = {}
    for names, _, defaults in table(README, "Settings"):
        documented |= dict(
            zip(re.findall(r"`(\w+)`", names), re.findall(r"`([^`]+)`", defaults) or [""] * 2, strict=False)
        )
    beside = {"PG_BINDIR", "STRIPE_API_KEY"}  # read by make run and make test, and by make stripe-sync
    assert set(documented) == set(read) | beside
    for name, default in documented.items():
        value = getattr(assumed, name.lower(), None)
        if name == "AUTH_JWT_ALGORITHMS":
            value = ",".join(settings.ALGORITHMS)
        elif name == "RATE_LIMIT_WRITES":
            value = str(value).replace("per 1 ", "per ")
        elif name == "SUBSCRIPTION_GRACE":
            assert value == settings.duration(settings.GRACE)
            value = settings.GRACE
        elif name == "WEB_CONCURRENCY":
            assert value == cpus.usable()
            value = None
        elif name in ("DATABASE_URL", "AUTH_JWT_SECRET"):
            value = None
        if isinstance(value, frozenset | tuple):
            value = ",".join(value)
        if isinstance(value, bool):
            value = "on" if value else "off"
        if isinstance(value, float):
            value = f"{value:g}"
        assert default == ("" if value is None else str(value)), name


def test_every_make_target_is_documented_and_every_documented_one_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M)) - {"install", "help"}
    documented = {name for row in table(README, "make") for name in re.findall(r"`make ([a-z-]+)", row[0])}
    assert documented == targets
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M)) == targets | {"help"}
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.M)
    assert phony
    assert set(re.findall(r"[a-z-]+", phony[1])) == targets | {"install", "help"}
    for text in (README, DBAS, (ROOT / "CONTRIBUTING.md").read_text(), (ROOT / "CHANGELOG.md").read_text()):
        assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)(?= [A-Z]+=|`)", text)) <= targets


def test_every_call_and_every_code_is_documented():
    everything = {
        f"{method.upper()} {path}"
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method in ("get", "post", "delete")
    }
    for call in everything:
        assert f"`{call}`" in README or f"`{call.partition(' ')[2]}`" in README, call
    calls = {call for call in everything if "/api/progress/" in call}
    assert {row[0].strip("`") for row in table(README, "Calls")[: len(calls)]} == calls
    errors = [row for row in table(README, "Calls") if re.match(r"\d", row[0])]
    documented = [(code, row[0]) for row in errors for code in re.findall(r"`(\w+)`", row[1])]
    assert {code for code, _ in documented} == set(CODES)
    for code, statuses in documented:
        assert str(CODES[code][0]) in statuses, code


def test_every_reason_that_the_log_has_for_a_refused_session_is_documented():
    rows = [row for row in table(README, "For operators") if row[0].strip("`") in {*REASONS, NO_SESSION}]
    assert [row[0].strip("`") for row in rows] == [NO_SESSION, *REASONS]
    for _, cause, mend in rows:
        assert cause
        assert mend


def test_errors_are_told_in_the_order_in_which_they_come():
    """tests/test_errors.py holds the service to that order."""
    faults = [code for code in CODES if code in FAULTS]
    assert faults == list(FAULTS)
    told = [
        code for row in table(README, "Calls") if re.match(r"\d", row[0]) for code in re.findall(r"`(\w+)`", row[1])
    ]
    written = re.search(r"the first of this order is told:(.*?)\.", DOCUMENT["info"]["description"], re.S)
    assert written
    ordered = re.findall(r"`(\w+)`", written[1])
    assert told[: len(ordered)] == ordered == list(CODES)[: len(ordered)]
    assert set(FAULTS) < set(ordered)


LIMIT = settings.from_environ({"DATABASE_URL": "postgresql:///x", "AUTH_JWT_SECRET": "x" * 32}).rate_limit_writes
assert LIMIT
BODY = f"{checks.MAX_BODY_BYTES // 1024} KiB"
WRITES = f"{LIMIT.amount} marks and unmarks"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("README.md", f"| over {BODY} |"),
        ("README.md", f"more than {WRITES} in {LIMIT.get_expiry()} seconds"),
        ("README.md", f"{MAX_TOKEN_BYTES} bytes long at most; {bearer.LEEWAY} seconds of difference"),
        ("app/openapi.yaml", f"The body is over {BODY}."),
        ("app/openapi.yaml", f"{WRITES} in any {LIMIT.get_expiry()} seconds"),
        ("app/openapi.yaml", f"{MAX_TOKEN_BYTES} bytes at most; {bearer.LEEWAY} seconds of tolerance"),
        ("app/openapi.yaml", f"{webhook.SIGNATURE_TOLERANCE_SECONDS} seconds ago at most."),
        ("app/openapi.yaml", f"{webhook.MAX_EVENT_BYTES // 1024} KiB at most."),
        ("app/openapi.yaml", f"The event is over {webhook.MAX_EVENT_BYTES // 1024} KiB."),
        ("CHANGELOG.md", f"{WRITES} in any {LIMIT.get_expiry()} seconds"),
        ("deploy/nginx.conf", f"Send a body of {BODY} at most."),
    ],
)
def test_a_number_that_is_told_is_the_codes(name, told):
    assert told in " ".join((ROOT / name).read_text().split())


def test_every_call_names_its_statements_for_dbas():
    for path, item in DOCUMENT["paths"].items():
        for method in {"get", "post", "delete"} & set(item):
            if path not in ("/openapi.yaml", "/progress-ui/{file}", "/healthz", "/metrics"):  # which ask no database
                assert f"| `{method.upper()} {path}` |" in DBAS


def test_every_file_that_is_named_is_there():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "sql" / "README.md"):
        for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / name).exists(), name
        for name in re.findall(r"`((?:app|tests|sql|migrations)/[\w./-]*)`", document.read_text()):
            assert "NNNN" in name or (ROOT / name).exists(), name


def test_every_setting_that_is_read_is_documented():
    names = {
        name
        for source in SOURCES
        for name in re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", source.read_text())
        if not name.startswith("PIP_")
    }
    # Of the request; of make; of the machine: who called sudo; and gunicorn.conf.py's own word to a library.
    assert names - {"PATH_INFO", "FILE", "SUDO_UID", "PROMETHEUS_MULTIPROC_DIR"} <= {
        name for row in table(README, "Settings") for name in re.findall(r"`(\w+)`", row[0])
    }


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    found = {"README.md": shell_blocks(README), "sql/README.md": shell_blocks(DBAS)}
    assert {name: len(texts) for name, texts in found.items()} == {"README.md": 12, "sql/README.md": 3}
    return found


@pytest.fixture
def checkout(folder: Path) -> Path:  # noqa: F811
    """A checkout with all that make wants, and what it would install."""
    checkout = copy_of_the_checkout(folder / "checkout")
    for name in ("Makefile", "install.py", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, checkout)
    # make ran install.py before the tests: in the same .venv it has nothing to do.
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    return checkout


def test_the_shell_blocks_run_as_they_stand(checkout, blocks):
    start, test, learners, copy, events, venv, owner, production, schema, dump, restore, by_hand = blocks["README.md"]
    assert "site_users" in copy  # tests/test_site.py runs it
    assert (start, test) == ("make run\n", "make test\n")  # the second is what runs this
    environ = {"PATH": f"{postgres.bindir()}:{os.environ['PATH']}", "HOME": "/nonexistent", "PORT": str(free_port())}
    environ |= {"WEB_CONCURRENCY": "1"}
    if "PG_BINDIR" in os.environ:
        environ["PG_BINDIR"] = os.environ["PG_BINDIR"]

    def run(script: str, **more: str) -> str:
        done = subprocess.run(["sh", "-euc", script], cwd=checkout, env=environ | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout

    demo = subprocess.Popen(
        ["sh", "-euc", start], cwd=checkout, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert demo.stdout
        for line in demo.stdout:
            if "sql/summary.sql" in line:
                break
        url = re.search(r"postgresql://\S+(?=')", line)
        assert url
        environ["DATABASE_URL"] = url[0]
        assert "free access" in run(learners)
        assert run(events) == '{"outcome": "applied"}\n' * 2
        # Unset variables are an error in all of these; each answers with the demo learner's row.
        for block in [by_hand, *blocks["sql/README.md"]]:
            if "pg_stat_statements" not in block:
                assert re.search(r'"totalCount" : 322|Execution Time', run(block)), block
        assert venv.splitlines() == [
            "python3 -m venv .venv",
            ".venv/bin/python -m pip install --require-hashes -r requirements.txt",
        ]
        # What they name is another machine's.
        ours = environ["DATABASE_URL"]
        assert "nothing to do" in run(owner.replace("export DATABASE_URL=", "export OTHER="))
        service = subprocess.Popen(
            ["sh", "-euc", production.replace("export DATABASE_URL=", "export OTHER=")],
            cwd=checkout,
            env=environ | {"PORT": str(free_port()), "DATABASE_URL": ours.replace("postgres@", "progress@")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert service.stderr
        assert any("Listening at: http://127.0.0.1:" in line for line in service.stderr)  # the last line is its end
        service.terminate()
        service.communicate(timeout=30)
        run(f'psql -Xqc "create database site" "{ours}"')
        options = re.search(r"&options=[^']*", schema)
        assert options
        site = ours.replace("/progress?", "/site?") + options[0]
        assert "applied 0001_users" in run(schema.replace("export DATABASE_URL=", "export OTHER="), DATABASE_URL=site)
        run(dump)
        restored = ours.replace("/progress?", "/restored?")
        run(f'psql -Xqc "create database restored" "{ours}"')
        run(restore, RESTORED=restored)
        counts = "select (select count(*) from lessons), (select count(*) from enrollments)"
        assert run(f'psql -XAtc "{counts}" "{restored}"') == run(f'psql -XAtc "{counts}" "{ours}"')
    finally:
        os.killpg(demo.pid, signal.SIGTERM)
        demo.communicate(timeout=30)
    wait_until_nothing_works_in(checkout)


def test_the_catalog_of_the_readme_loads(tmp_path, database_url, db):
    example = re.search(r"^```json\n(.*?)^```$", README, re.M | re.S)
    assert example
    (tmp_path / "catalog.json").write_text(example[1])
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "load-catalog", str(tmp_path / "catalog.json")],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("loaded\n")
    assert db.execute("select title from lessons").fetchall() == [("Lucian's Luscious Lasagna",)]


def test_the_project_speaks_of_itself_alone():
    """No place of a machine, no host to fetch from, in any file that is part of it."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    texts = {
        name: (ROOT / name).read_text("utf-8", "replace")
        for name in names
        if name and (ROOT / name).is_file() and name != "tests/test_docs.py"
    }
    for name, text in texts.items():
        for word in ("/home/", "/root/", "pypi.org", "pythonhosted", "registry.npmjs", "deb.debian.org"):
            assert word not in text, f"{name} names {word}"
