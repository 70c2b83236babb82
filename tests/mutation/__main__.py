"""`make mutate`: change a file in one small way, run the tests that matter for it, and see that one fails.

It prints each change that no test noticed. Either a test is missing, or the change makes no difference to any answer:
whoever reads the list decides. FILE names one file to change, or a folder (sql, migrations, app), else all of sql/,
the views that it reads and the pure modules are.
"""

import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutation import sql

FILE = os.environ.get("FILE", "")
ROOT = Path(__file__).parent.parent.parent

# The tests that matter for each statement. Those that notice a mutant soonest come first. One kind of plan is enough,
# because an answer does not depend on the plan. Slow tests are left out if quicker ones test the same.
ONE_PLAN = ["-k", "not force_generic_plan and not psql_gets"]
WORLDS = "tests/proof/test_worlds.py"
MODEL = "tests/proof/test_model.py"
STATEMENTS = "tests/test_statements.py"
COURSES = "tests/test_courses.py"
READS = [WORLDS, STATEMENTS, "tests/test_calls.py", "tests/test_counts.py", COURSES, MODEL, *ONE_PLAN]
WRITES = [WORLDS, STATEMENTS, "tests/test_counts.py", "tests/test_writes.py", COURSES, MODEL, *ONE_PLAN]
START_OVER = [STATEMENTS, "tests/test_start_over.py", MODEL, *ONE_PLAN]
MANY_MARKS = [
    *("tests/test_many_marks.py", "tests/proof/test_many_marks.py", STATEMENTS, MODEL),
    *("-k", "not force_generic_plan and not psql_gets and not body and not faults"),
]
VIEWS = [*WRITES[:-2], "tests/test_access.py", "tests/test_rights.py", *ONE_PLAN]
LOCK = ["tests/test_concurrency.py"]
LIMITS = ["tests/test_limits.py", "-k", "not eight_clients"]
CATALOG = [
    *(STATEMENTS, "tests/test_catalog.py", "tests/test_catalog_courses.py"),
    *("-k", "not psql_gets and not 10_000 and not killed_midway"),
]
COMMANDS = [
    *(STATEMENTS, "tests/test_cli.py", "tests/test_stripe.py", "tests/test_stripe_courses.py"),
    *("-k", "not psql_gets and not by_make and not all_orders and not fails_is_one"),
]
STRIPE = [
    *(STATEMENTS, "tests/test_stripe.py", "tests/test_stripe_courses.py"),
    *("-k", "not psql_gets and not all_orders and not fails_is_one"),
]
COMPLETIONS = [STATEMENTS, "tests/test_completions.py", *ONE_PLAN]
PROGRESS = ["tests/test_progress_task.py", STATEMENTS, *ONE_PLAN]
LEARNER_DATA = [STATEMENTS, "tests/test_learner_data.py", "tests/test_erased_mentions.py", *ONE_PLAN]
PROGRESS_CSV = [
    *(STATEMENTS, "tests/test_progress_csv.py"),
    *("-k", "not psql_gets and not make_passes and not at_once and not killed"),
]
REPORTS = ["tests/proof/test_reports.py", "tests/test_reports.py", *ONE_PLAN]
COOKIES = [STATEMENTS, "tests/test_cookies.py", "-k", "database"]

TESTS = {
    **dict.fromkeys(("summary", "module", "lessons", "modules", "outline", "next", "courses", "course"), READS),
    "access": [STATEMENTS, "tests/test_access.py", COURSES, *ONE_PLAN],
    **dict.fromkeys(("start_over_module", "start_over_course", "start_over_all"), START_OVER),
    **dict.fromkeys(("module_counts", "course_counts"), START_OVER),
    **dict.fromkeys(("finished", "complete_modules", "complete_courses", "completions"), COMPLETIONS),
    **dict.fromkeys(("may_mark", "mark", "unmark", "lesson"), WRITES),
    **dict.fromkeys(("may_mark_lessons", "mark_lessons", "marked_lessons"), MANY_MARKS),
    **dict.fromkeys(("admin/titles", "admin/uncounted", "admin/learner_events"), PROGRESS),
    "export": LEARNER_DATA,
    "lock": LOCK,
    **dict.fromkeys(("limits/hit", "limits/window"), LIMITS),
    "session": COOKIES,
    "readiness": ["tests/test_rights.py", "tests/test_failover.py", "-k", "row_level or whatever_the_url_says"],
    "learner_tag_key": ["tests/test_learner_tag.py"],
    "applied_migrations": ["tests/test_migrations.py", "tests/test_operation.py"],
}


def tests_for(name: str) -> list[str]:
    """Return the tests that matter for a statement, as arguments of pytest."""
    if name in TESTS:
        return TESTS[name]
    if name.startswith("learners/") or name == "stripe/claimed":
        return [STATEMENTS, "tests/test_new_learners.py", "-k", "not psql_gets and not one_moment"]
    if name.startswith("reports/") or name == "admin/is_course":
        return REPORTS
    if name.startswith("stripe/"):
        return STRIPE
    if name.startswith("admin/erase") or name == "admin/stripe_customer_is_used":
        return LEARNER_DATA
    if name.startswith("admin/import_") or name in ("admin/export_progress", "admin/known_learners"):
        return PROGRESS_CSV
    return CATALOG if name.startswith("admin/catalog_") else COMMANDS


class Case(NamedTuple):
    """A mutant, and the tests that run on it."""

    file: str
    id: str
    text: str
    tests: list[str]


def sql_cases() -> list[Case]:
    """Return every mutant of sql/, and of the views that sql/ reads."""
    cases = []
    for path in sorted((ROOT / "sql").rglob("*.sql")):
        name = path.relative_to(ROOT / "sql").with_suffix("").as_posix()
        file = path.relative_to(ROOT).as_posix()
        cases += [Case(file, m.id(), m.text, tests_for(name)) for m in sql.mutants(name, path.read_text())]
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        # Only the views can change an answer. What is before the views and after them cannot.
        text = path.read_text()
        views = [view.span() for view in re.finditer(r"^create or replace view .*?;", text, re.M | re.S)]
        if not views or "rollback" in path.name:
            continue
        start, end = views[0][0], views[-1][1]
        for mutant in sql.mutants(path.stem, text[start:end]):
            mutated = text[:start] + mutant.text + text[end:]
            cases.append(Case(path.relative_to(ROOT).as_posix(), mutant.id(), mutated, VIEWS))
    return cases


# The pure modules, and the tests that matter for each.
PYTHON = {
    "app/checks.py": [
        *("tests/test_writes.py", "tests/test_many_marks.py", "tests/test_errors.py", "tests/test_calls.py"),
        *("tests/test_stripe.py", "-k", "not force_generic_plan and not all_orders and not fails_is_one"),
    ],
    "app/formats.py": [
        *("tests/test_writes.py", "tests/test_many_marks.py", "tests/test_calls.py", "tests/test_stripe.py"),
        *("tests/proof/test_time.py", "-k", "not force_generic_plan and not all_orders and not fails_is_one"),
    ],
    "app/answers.py": [
        *("tests/test_calls.py", "tests/test_errors.py", "tests/test_cookies.py", "tests/test_progress_ui.py"),
        *("tests/test_operation.py", "tests/test_learner_tag.py", *ONE_PLAN),
    ],
    "app/sessions/__init__.py": [
        *("tests/test_sessions.py", "tests/test_cookies.py", "tests/test_jwks.py"),
        *("tests/test_operation.py", "-k", "not gunicorn and not origin and (line or not test_operation)"),
    ],
    "app/sessions/bearer.py": [
        *("tests/test_sessions.py", "tests/test_cookies.py", "tests/test_jwks.py", "tests/test_cli.py"),
        *("-k", "not gunicorn and not origin and (token or not test_cli)"),
    ],
    "app/tasks/tokens.py": ["tests/test_cli.py", "-k", "token"],
    "app/sessions/cookies.py": ["tests/test_cookies.py", "-k", "not gunicorn and not origin"],
    "app/sessions/origins.py": [
        *("tests/test_cookies.py", "tests/test_proxies.py"),
        *("-k", "(origin or cors or cross_site or nobodys_own) and not gunicorn"),
    ],
    "app/sessions/tags.py": ["tests/test_learner_tag.py"],
    "app/keys/jwks.py": ["tests/test_jwks.py"],
    "app/settings.py": [
        *("tests/test_settings.py", "tests/test_cookies.py", "tests/test_jwks.py"),
        *("-k", "(test_settings and not does_not_start) or stops_the_start or this_machine_alone or any_name"),
    ],
    "app/tasks/catalog.py": CATALOG[1:],
    "app/tasks/progress_csv.py": PROGRESS_CSV[1:],
}


def python_cases() -> list[Case]:
    """Return every mutant of the pure modules."""
    # Imported here, because mutmut is in requirements-system.txt only.
    from tests.mutation import python

    return [
        Case(file, mutant.id(), mutant.text, tests)
        for file, tests in PYTHON.items()
        if _is_wanted(file)  # making the mutants of all files takes minutes
        for mutant in python.mutants(file, (ROOT / file).read_text())
    ]


def copy_of_the_checkout(folder: Path) -> None:
    """Copy every file that git does not ignore, and link the .venv of this checkout."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")


def _is_wanted(file: str) -> bool:
    return not FILE or f"{file}/".startswith(f"{FILE}/")


class Worker:
    """A process that tries mutants in a copy of the checkout of its own."""

    def __init__(self, folder: Path) -> None:
        copy_of_the_checkout(folder)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.worker"],
            cwd=folder,
            # Load no installed plugin of pytest: loading them takes longer than the tests take to notice most mutants.
            env={**os.environ, "MUTATION_OUTPUT": str(folder / "output"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, file: str, tests: list[str], **text: str) -> dict[str, Any]:
        """Run the tests on a file with this text, or on the file as it is. Return the worker's answer."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"file": file, "tests": tests, **text}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the worker, which then stops its PostgreSQL."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def run(cases: list[Case]) -> dict[tuple[str, str], dict[str, Any]]:
    """Try every case, with a worker for each core. Return the outcome of each case."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    outcomes: dict[tuple[str, str], dict[str, Any]] = {}
    failures: list[BaseException] = []
    workers = min(os.cpu_count() or 1, len(cases))
    # A test that fails without a mutant would tell nothing. So each set of tests first runs on the file as it is.
    first = list({tuple(case.tests): case for case in cases}.values())

    def work(folder: Path, number: int) -> None:
        worker = Worker(folder)
        try:
            for case in first[number::workers]:
                answer = worker.ask(case.file, case.tests)
                if answer["outcome"] != "survived":
                    output = (folder / "output").read_text()[-3000:]
                    raise RuntimeError(f"{answer['by']} fails without any mutant\n{output}")
            while not failures:
                case = waiting.get_nowait()
                outcomes[case.file, case.id] = answer = worker.ask(case.file, case.tests, text=case.text)
                if answer["outcome"] == "survived":
                    print(f"  survived: {case.file}: {case.id}", flush=True)
                if "MUTATION_VERBOSE" in os.environ:
                    print(answer, case.file, case.id, flush=True)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where the threads are joined
            failures.append(error)
        finally:
            worker.close()

    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        Path(folder).chmod(0o755)
        threads = []
        for number in range(workers):
            (Path(folder) / str(number)).mkdir()
            threads.append(threading.Thread(target=work, args=(Path(folder) / str(number), number)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return outcomes


def report(cases: list[Case], outcomes: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Print how many mutants of each file there are, and how many of them a test noticed."""
    files: dict[str, Counter[str]] = {}
    for case in cases:
        files.setdefault(case.file, Counter())[outcomes[case.file, case.id]["outcome"]] += 1
    print(f"{'file':40} {'mutants':>8} {'killed':>8} {'survived':>9}")
    for file, counter in files.items():
        _line(file, counter)
    _line("all", sum(files.values(), Counter()))


def _line(name: str, counter: Counter[str]) -> None:
    mutants = counter.total() - counter["invalid"]
    print(f"{name:40} {mutants:8} {counter['killed']:8} {counter['survived']:9}")


def main() -> None:
    """Try mutants, and print the report."""
    started = time.monotonic()
    cases = [case for case in (*sql_cases(), *python_cases()) if _is_wanted(case.file)]
    if not cases:
        sys.exit(f"make mutate: FILE={FILE} is none of the files that are changed")
    report(cases, run(cases))
    print(f"{len(cases)} tried in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
