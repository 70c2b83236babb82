"""The locks: each requirements*.txt pins what pyproject.toml asks for, with hashes."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import pairwise

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICE = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
# From the smallest lock, the service's own, to the largest.
LOCKS = {
    "requirements.txt": SERVICE,
    "requirements-demo.txt": SERVICE + EXTRAS["demo"],
    "requirements-dev.txt": SERVICE + EXTRAS["demo"] + EXTRAS["dev"],
    "requirements-system.txt": SERVICE + EXTRAS["demo"] + EXTRAS["dev"] + EXTRAS["system"],
}
STALE = "the lock is stale; renew it with: make lock"


def locked(name: str) -> dict[str, str]:
    """Return what a lock pins: each package with its whole entry."""
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text(), flags=re.M)
    return {entry.split("==")[0]: entry for entry in entries if "==" in entry}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_is_asked_for_and_nothing_that_no_longer_is(name):
    entries = locked(name)
    asked = {canonicalize_name(Requirement(text).name): Requirement(text) for text in LOCKS[name]}
    for package, requirement in asked.items():
        assert package in entries, f"{package}: {STALE}"
        version = re.split(r"[ ;\\]", entries[package].split("==")[1], maxsplit=1)[0]
        assert requirement.specifier.contains(version), f"{package} {version}: {STALE}"
    # uv writes below each package what requires it. This note means that the project itself requires the package.
    own = {package for package, entry in entries.items() if "progress-tracking (pyproject.toml)" in entry}
    assert own == set(asked), STALE


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_hashes(name):
    for package, entry in locked(name).items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), package


def test_each_lock_repeats_the_pins_of_the_smaller_one():
    """The tests run on the service's versions, and a lock can be installed on top of the smaller one."""
    versions = [
        {package: re.split(r"[ ;\\]", entry.split("==")[1], maxsplit=1)[0] for package, entry in locked(name).items()}
        for name in LOCKS
    ]
    for smaller, larger in pairwise(versions):
        assert smaller.items() <= larger.items()


@pytest.mark.parametrize(("lock", "is_demo"), [("requirements.txt", False), ("requirements-demo.txt", True)])
def test_what_the_code_imports_comes_with_its_own_lock(lock, is_demo):
    """`make test` installs more than the service has, so a test would not notice an import of it."""
    files = [path for path in (ROOT / "app").rglob("*.py") if ("demo" in path.relative_to(ROOT).parts) == is_demo]
    files += [] if is_demo else [ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"]
    imported = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    providers = packages_distributions()
    for module in imported - sys.stdlib_module_names - {"app"}:
        assert {canonicalize_name(name) for name in providers[module]} & set(locked(lock)), module


def test_a_lock_names_no_place_to_fetch_from():
    for name in LOCKS:
        assert "://" not in (ROOT / name).read_text()


def test_the_licence_of_every_package_is_listed():
    text = (ROOT / "LICENCES.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    # A lock may pin a package twice, for different versions of Python. It may also pin a package that this version of
    # Python does not need.
    pinned = {
        (package, re.split(r"[ ;\\]", line.split("==")[1], maxsplit=1)[0])
        for lock in LOCKS
        for line in (ROOT / lock).read_text().splitlines()
        if "==" in line and (package := line.split("==")[0]) and not line.startswith(" ")
    }
    always = {
        package
        for lock in LOCKS
        for package, entry in locked(lock).items()
        if "python_" not in entry.split("\\")[0].replace("platform_python_", "")
    }
    stale = "the list of licences is stale; renew it with: make audit"
    assert {(name, version) for name, version, _, _ in rows} <= pinned, stale
    assert always <= {name for name, _, _, _ in rows}, stale
    for name, _, licence, _ in rows:
        assert licence not in ("", "UNKNOWN", "License"), name


NPM = ["examples/next", *(f"tests/system/{name}" for name in ("authjs", "axe", "better-auth", "react18", "react19"))]


@pytest.mark.parametrize("folder", NPM)
def test_a_lock_of_npm_has_a_hash_for_every_package_and_names_no_place_to_fetch_from(folder):
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    root = packages.pop("")
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
    asked = json.loads((ROOT / folder / "package.json").read_text())
    for kind in ("dependencies", "devDependencies"):
        assert root.get(kind) == asked.get(kind), "the lock is stale; renew it with: npm install"
        for name, version in asked.get(kind, {}).items():
            assert packages[f"node_modules/{name}"]["version"] == version, f"{name}: write the exact version"
