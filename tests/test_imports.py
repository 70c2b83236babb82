"""Which modules of app/ may import which: only modules further down the way of a request, and never in a circle."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.conftest import ROOT

# The folders and modules of app/, from the top down. `app` itself, the file __init__.py, imports nothing.
ORDER = [
    *("demo", "cli", "tasks", "start", "application", "sessions", "limits"),
    *("progress", "new_learners", "stripe", "health", "metrics", "openapi", "progress_ui"),
    *("checks", "writes", "events", "service", "database", "keys", "outgoing", "answers", "request_log", "failures"),
    *("call", "logs", "problems", "formats", "settings", "cpus", "user_ids", "app"),
]


def name_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {name_of(path.relative_to(ROOT).as_posix()): path for path in sorted((ROOT / "app").rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Return the modules of app/ that a module imports, also those that it imports inside of a function."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else node.module for name in names}
    return found & set(MODULES)


def reached(module: str) -> set[str]:
    """Return the modules of app/ that are imported with a module, with their packages, and the module itself."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in found:
            found.add(name)
            waiting += [*imports(name), name.rpartition(".")[0]]
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("module", MODULES)
def test_an_import_points_down_a_requests_way(module):
    below = ORDER[ORDER.index(room(module)) + 1 :]
    assert {room(name) for name in imports(module)} <= {room(module), *below}


def test_no_import_goes_in_a_circle():
    TopologicalSorter({module: imports(module) - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", ["app.cli", "app.start"])
def test_what_runs_without_requests_starts_without_the_web_framework(module):
    lines = {line for name in reached(module) for line in MODULES[name].read_text().splitlines()}
    assert not [line for line in lines if re.match(r"\s*(from|import) (flask|werkzeug|jinja2)\b", line)]


def test_a_task_starts_without_the_libraries_of_others():
    # sys.modules, because a library may import another one.
    program = "import sys, app.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    slow = {"flask", "marshmallow", "prometheus_client", "psycopg_pool", "requests", "stripe", "yoyo"}
    assert not slow & set(loaded.stdout.split())
