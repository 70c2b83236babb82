"""The locks: each requirements*.txt holds what pyproject.toml asks for, with its hashes."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SERVICE = PROJECT["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
# From the service's own to the largest.
LOCKS = {
    "requirements.txt": SERVICE,
    "requirements-dev.txt": SERVICE + EXTRAS["dev"],
    "requirements-system.txt": SERVICE + EXTRAS["dev"] + EXTRAS["system"],
}
STALE = "the lock is stale; renew it with: make lock"


def locked(name: str) -> dict[str, str]:
    """What a lock pins: each package with the whole of its entry."""
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
    # uv notes who asked for each package: the project itself, for its own.
    own = {package for package, entry in entries.items() if "progress-tracking (pyproject.toml)" in entry}
    assert own == set(asked), STALE


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_hashes(name):
    for package, entry in locked(name).items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), package


def test_the_tests_run_on_the_versions_that_the_service_runs_on():
    service, development, system = (
        {package: re.split(r"[ ;\\]", entry.split("==")[1], maxsplit=1)[0] for package, entry in locked(name).items()}
        for name in LOCKS
    )
    assert service.items() <= development.items() <= system.items()


def test_a_lock_names_no_place_to_fetch_from():
    for name in LOCKS:
        assert "://" not in (ROOT / name).read_text()


def test_the_licence_of_every_package_is_listed():
    text = (ROOT / "LICENCES.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    # Some are for other versions of Python, and pinned twice or not for this one.
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
