"""The pages are true: their settings, tasks and calls are those of the code, and every shell block runs unchanged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from app import checks, cpus, settings
from app.demo import postgres
from app.problems import CODES
from app.sessions import bearer
from app.sessions.refusals import MAX_TOKEN_BYTES, NO_SESSION, REASONS
from app.stripe import webhook
from app.user_ids import MAX_CHARACTERS, learner_id
from tests.calls import query
from tests.conftest import LONG_FILES, ROOT, free_port
from tests.contract import DOCUMENT
from tests.pages import PAGES, anchors, block, blocks, table
from tests.test_demo import copy_of_the_checkout, folder, wait_until_nothing_works_in  # noqa: F401
from tests.test_errors import FAULTS
from tests.test_locks import LOCKS

SETTINGS = table("docs/operating.md", "Settings")
SOURCES = [*(ROOT / "app").rglob("*.py"), ROOT / "gunicorn.conf.py"]


def test_the_settings_table_is_what_the_code_reads_and_assumes():
    read: dict[str, str] = {}

    class Recorder(dict[str, str]):
        def get(self, name, default=None):
            return read.setdefault(name, super().get(name, default))

    given = Recorder(DATABASE_URL="postgresql:///x", AUTH_JWT_SECRET="x" * 32)
    assumed = settings.from_environ(given)
    documented: dict[str, str] = {}
    for names, _, defaults in SETTINGS:
        documented |= dict(
            zip(re.findall(r"`(\w+)`", names), re.findall(r"`([^`]+)`", defaults) or [""] * 2, strict=False)
        )
    # Only make run, make test, make stripe-sync and make deliver read these.
    beside = {"PG_BINDIR", "STRIPE_API_KEY", "WEBHOOK_METRICS_PORT"}
    assert set(documented) == set(read) | beside
    for name, default in documented.items():
        value = getattr(assumed, name.lower(), None)
        if name == "AUTH_JWT_ALGORITHMS":
            value = ",".join(settings.ALGORITHMS)
        elif name == "RATE_LIMIT_WRITES":
            value = str(value).replace("per 1 ", "per ")
        elif name == "SUBSCRIPTION_GRACE":
            assert value == settings.duration(settings.DEFAULT_GRACE)
            value = settings.DEFAULT_GRACE
        elif name == "FORWARDED_ALLOW_IPS":
            value = assumed.forwarded_allow_ips[0].network_address  # the second one is the IPv6 form of the first
        elif name == "WEBHOOK_ALLOW_HTTP":
            value = False
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
    tables = [
        {name for row in table(page, heading) for name in re.findall(r"`make ([a-z-]+)", row[0])}
        for page, heading in (
            ("docs/operating.md", "Tasks"),
            ("CONTRIBUTING.md", "Tasks"),
            ("sql/README.md", "At scale"),
        )
    ]
    assert set.union(*tables) == targets
    assert sum(map(len, tables)) == len(targets), "each task is for one reader"
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M)) == targets | {"help"}
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.M)
    assert phony
    assert set(re.findall(r"[a-z-]+", phony[1])) == targets | {"install", "install-dev", "install-system", "help"}
    for text in (*PAGES.values(), (ROOT / "CHANGELOG.md").read_text()):
        assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)(?= [A-Z]+=|`)", text)) <= targets


def test_every_call_and_every_code_is_documented():
    everything = {
        f"{method.upper()} {path}{query(item[method])}"
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method in ("get", "post", "delete")
    }
    told = "".join(PAGES.values())
    for call in everything:
        assert f"`{call}`" in told or f"`{call.partition(' ')[2]}`" in told, call
    calls = {call for call in everything if "/api/progress/" in call}
    for page, heading in (("README.md", "Calls at a glance"), ("docs/front-end.md", "Calls")):
        assert {row[0].strip("`") for row in table(page, heading)} == calls
    rows = table("docs/contract.md", "3. Calls")
    short = {call for row in rows for call in re.findall(r"`([A-Z]+ /\S+)`", row[0])}
    assert {call.replace(" ", " /api/progress", 1) for call in short} == calls
    webhook = "invalid_signature"  # only Stripe's webhook answers with this code, never a call of a page
    assert {code for code, _ in codes("docs/front-end.md", "Errors")} == set(CODES) - {webhook}
    assert f"`{webhook}`" in PAGES["docs/operating.md"]
    assert all(f"`{code}`" in PAGES["docs/contract.md"] for code in CODES)
    for code, statuses in codes("docs/front-end.md", "Errors") + codes("docs/contract.md", "4. Errors"):
        assert str(CODES[code][0]) in statuses, code


def codes(page: str, heading: str) -> list[tuple[str, str]]:
    """Return each code of a table of errors, with its statuses."""
    return [(code, row[0]) for row in table(page, heading) for code in re.findall(r"`(\w+)`", row[1])]


def test_every_reason_that_the_log_has_for_a_refused_session_is_documented():
    rows = table("docs/operating.md", "Refused sessions")
    assert [row[0].strip("`") for row in rows] == [NO_SESSION, *REASONS]
    for _, cause, mend in rows:
        assert cause
        assert mend


def test_errors_are_told_in_the_order_in_which_they_come():
    """tests/test_errors.py tests that the service has that order."""
    faults = [code for code in CODES if code in FAULTS]
    assert faults == list(FAULTS)
    written = re.search(r"the first of this order is told:(.*?)\.", DOCUMENT["info"]["description"], re.S)
    assert written
    ordered = re.findall(r"`(\w+)`", written[1])
    assert ordered == list(CODES)[: len(ordered)]
    for page, heading in (("docs/front-end.md", "Errors"), ("docs/contract.md", "4. Errors")):
        assert [code for code, _ in codes(page, heading)][: len(ordered)] == ordered, page
    assert set(FAULTS) < set(ordered)


LIMIT = settings.from_environ({"DATABASE_URL": "postgresql:///x", "AUTH_JWT_SECRET": "x" * 32}).rate_limit_writes
assert LIMIT
BODY = f"{checks.MAX_BODY_BYTES // 1024} KiB"
MANY_MARKS_BODY = f"{checks.MAX_MANY_MARKS_BODY_BYTES // 1024} KiB"
WRITES = f"{LIMIT.amount} writes"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("docs/front-end.md", f"| the body is over {BODY} (of many marks: {MANY_MARKS_BODY}) |"),
        ("docs/front-end.md", f"more than {WRITES} in {LIMIT.get_expiry()} seconds"),
        ("docs/front-end.md", f"may send {WRITES} in any {LIMIT.get_expiry()} seconds"),
        ("docs/front-end.md", f"It is {MAX_TOKEN_BYTES} bytes long at most"),
        ("docs/operating.md", f"| the token is over {MAX_TOKEN_BYTES} bytes long |"),
        (
            "docs/operating.md",
            f"It is {MAX_TOKEN_BYTES} bytes long at most."
            f" The clocks of the provider and of the service may differ by {bearer.LEEWAY_SECONDS} seconds.",
        ),
        ("docs/contract.md", f"| the body is over {BODY}, of many marks over {MANY_MARKS_BODY} |"),
        ("docs/contract.md", f"a list of 1 to {checks.MAX_MANY_MARKS} lessons"),
        ("app/openapi.yaml", f"The body is over {MANY_MARKS_BODY}."),
        ("docs/contract.md", f"may send {WRITES} in any {LIMIT.get_expiry()} seconds"),
        ("docs/contract.md", f"Clocks may differ by {bearer.LEEWAY_SECONDS} seconds."),
        ("docs/contract.md", f"A token over {MAX_TOKEN_BYTES} bytes is refused."),
        ("docs/contract.md", f"an id of 1 to {MAX_CHARACTERS} characters becomes"),
        ("docs/operating.md", f"is empty, longer than {MAX_CHARACTERS} characters, or"),
        ("docs/contract.md", f"takes events of {webhook.MAX_EVENT_BYTES // 1024} KiB at most."),
        ("app/openapi.yaml", f"The body is over {BODY}."),
        ("app/openapi.yaml", f"{WRITES} in any {LIMIT.get_expiry()} seconds"),
        ("app/openapi.yaml", f"{MAX_TOKEN_BYTES} bytes at most; {bearer.LEEWAY_SECONDS} seconds of tolerance"),
        ("app/openapi.yaml", f"{webhook.SIGNATURE_TOLERANCE_SECONDS} seconds ago at most."),
        ("app/openapi.yaml", f"{webhook.MAX_EVENT_BYTES // 1024} KiB at most."),
        ("app/openapi.yaml", f"The event is over {webhook.MAX_EVENT_BYTES // 1024} KiB."),
        ("CHANGELOG.md", f"{WRITES} in any {LIMIT.get_expiry()} seconds"),
        ("deploy/nginx.conf", f"Send a body of {BODY} at most, or of {MANY_MARKS_BODY} with many marks."),
    ],
)
def test_a_number_that_is_told_is_the_codes(name, told):
    assert told in " ".join((ROOT / name).read_text().split())


def test_every_call_names_its_statements_for_dbas():
    for path, item in DOCUMENT["paths"].items():
        for method in {"get", "post", "delete"} & set(item):
            # These calls do not use the database.
            if path not in ("/openapi.yaml", "/progress-ui/{file}", "/healthz", "/metrics"):
                assert f"| `{method.upper()} {path}{query(item[method])}` |" in PAGES["sql/README.md"]


def test_every_link_leads_somewhere():
    others = ("CHANGELOG.md", "LICENCES.md", "examples/next/README.md")
    pages = PAGES | {name: (ROOT / name).read_text() for name in others}
    linked = set()
    for name, text in pages.items():
        found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
        for link in found:
            if re.match(r"https?:", link):
                continue
            target, _, anchor = link.partition("#")
            path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
            assert path.exists(), f"{name}: {link}"
            relative = path.relative_to(ROOT).as_posix()
            linked.add(relative)
            if anchor:
                assert anchor in anchors(pages[relative]), f"{name}: {link}"
    assert {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()} <= linked


def test_every_file_that_is_named_is_there():
    for page, text in PAGES.items():
        for name in re.findall(r"`((?:app|deploy|docs|migrations|sql|tests)/[\w./-]*)`", text):
            assert "NNNN" in name or (ROOT / name).exists(), f"{page}: {name}"
    assert set(LONG_FILES) <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_no_two_headings_of_a_page_have_one_anchor():
    for page, text in PAGES.items():
        assert len(anchors(text)) == len(set(anchors(text))), page


def test_the_readme_is_short_and_leads_every_reader_to_their_page():
    assert PAGES["README.md"].count("\n") < 150
    links = re.findall(r"\]\(([^)#]+)\)", PAGES["README.md"])
    assert set(PAGES) - {"README.md"} <= set(links)


def test_every_section_that_a_message_or_a_comment_names_is_there():
    """Errors of migrations, scripts and code name a section of a page, for instance `docs/operating.md, "Learners"`."""
    sources = [
        path
        for name in ("app", "migrations", "deploy", "sql", "tests")
        for path in (ROOT / name).rglob("*")
        if path.suffix in (".py", ".js", ".sql", ".conf", ".service", ".yaml") and "node_modules" not in path.parts
    ]
    sections = 0
    for path in [*sources, *ROOT.glob("*.py")]:
        text = " ".join(re.sub(r"[\"']\n\s*f?[\"']", "", path.read_text("utf-8", "replace")).split())
        if path.name == "test_docs.py":
            continue
        assert not re.search(r'README, "', text), f"{path}: a section of the README, which has none of them"
        for page in re.findall(r"\bdocs/[\w-]+\.md\b", text):
            assert page in PAGES, path
        for page, heading in re.findall(r'\b(docs/[\w-]+\.md), "([^"]+)"', text):
            sections += 1
            assert f"# {heading}\n" in PAGES[page], f"{path}: {page} has no section {heading}"
        for section in re.findall(r"\bcontract,? §([0-9]+)", text):
            assert f"\n## {section}. " in PAGES["docs/contract.md"], path
    assert sections


def test_every_module_is_on_the_map():
    """Modules of the demo are left out: the demo uses the service, and nothing uses the demo."""
    text = PAGES["docs/architecture.md"]
    for path in (ROOT / "app").rglob("*.py"):
        if "demo" not in path.parts and path.name != "__init__.py":
            assert f"`{path.name}`" in text or f"`{path.stem}/`" in text, path


def test_the_words_of_the_components_are_documented():
    files = {path.name: path.read_text() for path in (ROOT / "app" / "static").glob("*.js")}
    text = "".join(files.values())
    page = PAGES["docs/front-end.md"]
    style = {name for row in table("docs/front-end.md", "Style") for name in re.findall(r"`([\w-]+)`", row[0])}
    parts = set(re.findall(r'\bpart: "([\w-]+)"', text)) | {"lesson"}
    for name in re.findall(r'\bmeter\("(\w+)"\)', text):
        parts |= {name, f"{name}-percent"}
    assert style == parts | set(re.findall(r"var\((--progress-[\w-]+)", text))
    assert f"all {len(files)} scripts" in page
    observed = re.findall(r"observedAttributes = \[(.*?)\]", text)
    for attribute in re.findall(r'"([\w-]+)"', " ".join(observed)):
        assert re.search(rf'\| `{attribute}(="|`)', page), attribute
    for name in re.findall(r"slot(?:\[name=|.*name: )\"([\w-]+)\"", text):
        assert f'slot="{name}"' in page, name
    for name in re.findall(r"^  (?:set )?([a-z]\w*)\(.*\) \{$", files["element.js"], re.M):
        if not name.endswith("Callback") and name != "constructor":
            assert re.search(rf"\| `\.{name}\b", page), name


def test_the_examples_of_the_front_end_page_are_those_of_the_document():
    mark = DOCUMENT["paths"]["/api/progress/lessons/{lessonId}"]["post"]
    answer = mark["responses"]["200"]["content"]["application/json"]["example"]
    body = mark["requestBody"]["content"]["application/json"]["examples"]["earlier"]["value"]
    [many] = DOCUMENT["paths"]["/api/progress/lessons"]["post"]["requestBody"]["content"]["application/json"][
        "examples"
    ].values()
    page = {"docs/front-end.md": PAGES["docs/front-end.md"]}
    assert [json.loads(example) for example in blocks("json", page)] == [answer, body, many["value"]]


def test_the_code_of_the_example_site_is_on_the_page_as_it_is_in_its_file():
    """The site is built and used in tests/system/test_next.py. A block may show a part of a file, less indented."""
    site = ROOT / "examples" / "next"
    page = {"docs/front-end.md": PAGES["docs/front-end.md"]}
    shown = set()
    for text in (each for language in ("ts", "tsx", "prisma", "ini") for each in blocks(language, page)):
        name, _, code = re.sub(r"^(//|#) ", "", text).partition("\n")
        if (site / name).is_file():
            assert without_indentation(code) in without_indentation((site / name).read_text()), name
            shown.add(name)
    assert shown == {
        "app/checkout/route.ts",
        "app/layout.tsx",
        "app/lessons/[lessonId]/page.tsx",
        "components/complete.tsx",
        "components/dashboard.tsx",
        "components/summary.tsx",
        "lib/progress-server.ts",
        "lib/progress.ts",
        "next.config.ts",
        "prisma/schema.prisma",
        "progress.env.example",
        "scripts/export-catalog.ts",
    }


def without_indentation(code: str) -> str:
    return "".join(f"{line.strip()}\n" for line in code.splitlines())


def test_every_setting_that_is_read_is_documented():
    names = {
        name
        for source in SOURCES
        for name in re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", source.read_text())
        if not name.startswith("PIP_")
    }
    # PATH_INFO is from the request. FILE, COURSE and MODULE are from make. sudo sets SUDO_UID.
    # gunicorn.conf.py sets the last one for the library of Prometheus.
    assert names - {"PATH_INFO", "FILE", "COURSE", "MODULE", "SUDO_UID", "PROMETHEUS_MULTIPROC_DIR"} <= {
        name for row in SETTINGS for name in re.findall(r"`(\w+)`", row[0])
    }


@pytest.fixture
def checkout(folder: Path) -> Path:  # noqa: F811
    """Return a checkout with all that make needs, and with the installed packages."""
    checkout = copy_of_the_checkout(folder / "checkout")
    for name in ("Makefile", "install.py", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, checkout)
    # install.py has run before the tests. With the same .venv it has nothing to do.
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    return checkout


def test_the_shell_blocks_run_as_they_stand(checkout):
    start, test = "make run\n", "make test\n"  # `make test` is what runs this test
    copy = block("sh", "site_users")  # tests/test_site.py runs this block
    learners = block("sh", "make add-user")
    events, sale = block("sh", "make stripe-event", "active"), block("sh", "make stripe-event", "course_paid")
    learner = block("sh", "make learner-id")
    venv, production = block("sh", "python3 -m venv"), block("sh", "exec .venv")
    owner, schema = block("sh", "app.cli migrate", "owner@/progress"), block("sh", "app.cli migrate", "owner@/site")
    dump, restore = block("sh", "pg_dump "), block("sh", "pg_restore ")
    queries = [text for text in blocks("sh") if "sql/summary.sql" in text]
    exported, erasing = block("sh", "make export-user"), block("sh", "make erase-user")
    moving = {"docs/moving.md": PAGES["docs/moving.md"]}
    users_map, lessons_map, dry_run, progress, times = blocks("sh", moving)
    # These need a container engine. tests/system/test_container.py builds the image and runs its commands without one.
    engine = [text for text in blocks("sh") if text.startswith("docker ")]
    # These need Next.js: tests/system/test_next.py runs them.
    steps = [text for text in blocks("sh", {"docs/front-end.md": PAGES["docs/front-end.md"]}) if text.startswith("# ")]
    known = [
        start,
        test,
        copy,
        learners,
        learner,
        events,
        sale,
        exported,
        erasing,
        venv,
        production,
        owner,
        schema,
        dump,
        restore,
    ]
    known += [*queries, *engine, *steps, *blocks("sh", moving)]
    assert sorted(known) == sorted(blocks("sh")), "a shell block that nothing runs"
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
        assert run(learner) == f"{learner_id('clx1a2b3c0000abcd1234efgh', UUID(re.findall('=(.*)', learner)[0]))}\n"
        for sold in (events, sale):
            assert run(sold) == '{"outcome": "applied"}\n' * 2
        run(exported)
        assert json.loads((checkout / "learner.json").read_text())["stripe"]["payments"]
        [told] = re.findall(r"^   (progress: 1\n(?:   .*\n)+)   ```$", PAGES["docs/learner-data.md"], re.M)
        # Without CONFIRM, make fails and nothing is removed.
        looked = run(f"{erasing.replace(' CONFIRM=yes', '').strip()} 2>/dev/null || true").splitlines()
        assert [re.sub("[0-9]+$", "", line) for line in looked] == re.findall("^ *(.*?)[0-9]*$", told, re.M)[:-1]
        assert run(erasing).splitlines()[-1] == "erased"
        # An unset variable is an error in each of these blocks. Each block prints the row of the demo's learner.
        for query in queries:
            assert re.search(r'"totalCount" : 322|Execution Time', run(query)), query
        assert venv.splitlines() == [
            "python3 -m venv .venv",
            ".venv/bin/python -m pip install --require-hashes -r requirements.txt",
        ]
        # The blocks name hosts and folders of another machine, so replace them.
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
        # Reading ends at the first line that matches, or when the service ends.
        said = ""
        for line in service.stderr:
            said += line
            if "Listening at: http://127.0.0.1:" in line:
                break
        else:
            pytest.fail(said)
        service.terminate()
        service.communicate(timeout=60)
        people = "insert into users (id, email) select gen_random_uuid(), name || '@example.org'"
        run(f"""psql -Xqc "{people} from unnest('{{ann,bob}}'::text[]) as name" "{ours}\"""")
        export, lessons = blocks("csv", moving)
        (checkout / "theirs.csv").write_text(export.replace("05T14:22:01Z", "05 14:22:01 UTC"))
        run(times)
        assert (checkout / "export.csv").read_text() == export
        run(users_map, SITE_URL=ours)
        run(lessons_map)
        assert len((checkout / "lessons.csv").read_text().splitlines()) > 450
        (checkout / "lessons.csv").write_text(lessons)
        for task in (dry_run, progress):
            assert f"```\n{run(task)}```" in PAGES["docs/moving.md"]
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
        demo.communicate(timeout=60)
    wait_until_nothing_works_in(checkout)


@pytest.mark.parametrize("part", ['"isFree"', '"courses"'])
def test_each_catalog_of_the_page_loads(tmp_path, database_url, db, part):
    (tmp_path / "catalog.json").write_text(block("json", '"modules"', part))
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
    """No file of the project names a folder of a certain machine, or a host to fetch packages from."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    texts = {
        name: (ROOT / name).read_text("utf-8", "replace")
        for name in names
        if name and (ROOT / name).is_file() and name != "tests/test_docs.py"
    }
    for name, text in texts.items():
        for word in ("/home/", "/root/", "pypi.org", "pythonhosted", "registry.npmjs", "deb.debian.org"):
            assert word not in text, f"{name} names {word}"
