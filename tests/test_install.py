"""install.py: the first step of every make task, with Python's standard library alone."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT, in_memory
from tests.test_locks import LOCKS


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder with install.py and with locks that pin nothing: to install real packages is pip's part."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        shutil.copy(ROOT / "install.py", folder)
        for lock in LOCKS:
            if lock != "requirements.txt":
                Path(folder, lock).write_text("# nothing\n")
        yield Path(folder)


def install(checkout: Path, *arguments: str, before: str = "", **environ: str) -> tuple[int, str]:
    """Run install.py; `before` is Python code that runs first and changes what install.py sees of the machine."""
    argv = list(arguments or ("install", "run"))
    script = f"{before}\nimport runpy, sys; sys.argv[1:] = {argv!r}; runpy.run_path('install.py', run_name='__main__')"
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | environ
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(
        command, cwd=checkout, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.returncode, done.stdout


def test_a_python_that_is_too_old_is_told_what_is_needed(checkout):
    assert install(checkout, before="import sys; sys.version_info = (3, 9, 2)") == (
        1,
        "install: this is Python 3.9, and 3.11 or newer is needed; with one installed beside it: "
        "make run PYTHON=python3.12\n",
    )


def test_it_parses_on_pythons_of_long_ago():
    compile((ROOT / "install.py").read_text(), "install.py", "exec", dont_inherit=True)
    import ast

    ast.parse((ROOT / "install.py").read_text(), feature_version=(3, 7))


def test_a_python_without_venv_is_told_what_to_install(checkout):
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert install(checkout, before="import sys; sys.modules['ensurepip'] = None") == (
        1,
        f"install: this Python {version} cannot make virtual environments; on Debian and Ubuntu: "
        "apt install python3-venv\n",
    )


@pytest.mark.parametrize(("libc", "shown"), [(("", ""), "another C library"), (("glibc", "2.17"), "glibc 2.17")])
def test_a_c_library_without_wheels_is_named(checkout, libc, shown):
    before = f"import platform, sys; sys.platform = 'linux'; platform.libc_ver = lambda: {libc!r}"
    status, output = install(checkout, before=before)
    assert (status, output.splitlines()) == (1, [output.strip()])
    assert output.startswith("install: the PostgreSQL that `make run` and the tests bring along needs glibc 2.28")
    assert output.strip().endswith(f"this machine has {shown}")


def test_two_at_once_install_once_and_then_there_is_nothing_to_do(checkout):
    first = subprocess.Popen(
        [sys.executable, "install.py", "install", "run"], cwd=checkout, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout
    assert first.stdout.readline().startswith("install: creating .venv with Python")
    assert install(checkout) == (0, "install: waiting for another make that installs into this folder\n")
    first.communicate()
    assert first.returncode == 0
    assert (checkout / ".venv" / "bin" / "python").exists()
    # The next run starts no pip at all.
    assert install(checkout, before="import subprocess; subprocess.Popen = None") == (0, "")


def test_what_was_killed_is_installed_again_and_what_pip_cannot_install_is_one_line(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", "pyvenv.cfg", "made-by-make"):
        (checkout / ".venv" / name).touch()
    (checkout / "requirements-demo.txt").write_text(f"nothing-of-this-name==1 --hash=sha256:{'0' * 64}\n")
    status, output = install(checkout, PIP_NO_INDEX="1")
    lines = output.splitlines()
    assert status == 1
    assert lines[0].startswith("install: creating .venv with Python")
    assert lines[-1] == "install: No matching distribution found for nothing-of-this-name==1; is there a network?"
    assert not list((checkout / ".venv").glob("installed-*"))


def test_an_environment_that_somebody_else_made_is_left_alone(checkout):
    """docs/operating.md has operators make one, and the service runs from it."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", "pyvenv.cfg"):
        (checkout / ".venv" / name).touch()
    assert install(checkout, "install", "migrate") == (
        1,
        "install: .venv was not made by make, so make does not change it; run the tasks as "
        "`.venv/bin/python -m app.cli`, or remove .venv\n",
    )
    assert (checkout / ".venv" / "bin" / "python").exists()


@contextmanager
def make_run(checkout: Path) -> Iterator[None]:
    """Hold the lock that `make run` holds while it runs, in the file with its address."""
    (checkout / ".local").mkdir()
    with (checkout / ".local" / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("http://127.0.0.1:8000")
        lock.flush()
        yield


@contextmanager
def process(checkout: Path, python: str) -> Iterator[None]:
    """Run a process from .venv, such as a service that an operator started."""
    command = [python, "-c", "input('ready')"]
    with subprocess.Popen(command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.read(5) == b"ready"
        yield
        running.communicate(b"\n")


def test_a_changed_lock_takes_nothing_from_under_what_runs(checkout):
    assert install(checkout)[0] == 0
    kept = checkout / ".venv" / "kept"
    kept.touch()
    link = checkout / "link"
    link.symlink_to(checkout)
    users = [
        (make_run(checkout), "`make run` at http://127.0.0.1:8000"),
        (process(checkout, ".venv/bin/python"), r"process \d+"),
        (process(checkout, str(checkout / ".venv/bin/python")), r"process \d+"),
        (process(Path("/"), str(link / ".venv/bin/python")), r"process \d+"),
    ]
    for number, (using, who) in enumerate(users):
        with using:
            # A .venv that is up to date may be in use.
            if number == 0:
                assert install(checkout) == (0, "")
                (checkout / "requirements-demo.txt").write_text("# changed\n")
            status, output = install(checkout)
        assert status == 1
        refused = rf"install: \.venv is out of date, but {who} still runs from it; stop it first\n"
        assert re.fullmatch(refused, output)
        assert kept.exists()
    assert install(checkout)[0] == 0
    assert not kept.exists()


def installed(checkout: Path) -> list[str]:
    return sorted(stamp.name.removeprefix("installed-requirements-") for stamp in checkout.glob(".venv/installed-*"))


def test_a_larger_lock_is_installed_on_top_and_only_where_it_is_asked_for(checkout):
    assert install(checkout, "install", "run")[0] == 0
    assert installed(checkout) == ["demo"]
    kept = checkout / ".venv" / "kept"
    kept.touch()
    assert install(checkout, "install-dev", "test") == (0, "")
    assert installed(checkout) == ["demo", "dev"]
    assert install(checkout, "install-system", "test-system") == (0, "")
    assert installed(checkout) == ["demo", "dev", "system"]
    # The next `make run` leaves all of it there, and starts no pip.
    assert install(checkout, "install", "run", before="import subprocess; subprocess.Popen = None") == (0, "")
    assert kept.exists()


def test_a_changed_lock_makes_a_new_environment_without_what_it_no_longer_names(checkout):
    assert install(checkout, "install-dev", "test")[0] == 0
    (checkout / ".venv" / "kept").touch()
    (checkout / "requirements-dev.txt").write_text("# changed\n")
    # The demo's packages are as they were.
    assert install(checkout, "install", "run") == (0, "")
    assert (checkout / ".venv" / "kept").exists()
    assert install(checkout, "install-dev", "test")[0] == 0
    assert not (checkout / ".venv" / "kept").exists()
    assert installed(checkout) == ["demo", "dev"]


def test_an_environment_that_an_earlier_version_installed_is_made_anew(checkout):
    """An earlier version of the project had no lock of the demo, and installed everything for each task."""
    assert install(checkout, "install-dev", "test")[0] == 0
    (checkout / ".venv" / "installed-requirements-demo").unlink()
    (checkout / ".venv" / "kept").touch()
    assert install(checkout, "install", "run")[0] == 0
    assert installed(checkout) == ["demo"]
    assert not (checkout / ".venv" / "kept").exists()


# Every program of a recipe, and the lock that brings it.
PROGRAMS = {
    "install": ("app.demo", "app.demo.stripe_event", "app.cli"),
    "install-dev": (
        *("pytest", "ruff", "mypy", "sqlfluff", "squawk", "uv"),
        *("tests.bench", "tests.bench.scale", "tests.bench.explain"),
    ),
    "install-system": ("tests.system", "tests.mutation", "tests.licences", "pip_audit"),
}


def test_every_task_installs_what_its_programs_need_and_no_more():
    makefile = (ROOT / "Makefile").read_text()
    for task, needed, recipe in re.findall(r"^([a-z-]+): ([a-z-]+) .*\n((?:\t.*\n)+)", makefile, re.M):
        programs = re.findall(r"(?:\$\(RUN\) |\.venv/bin/)([\w.]+)", recipe)
        assert programs
        largest = max(list(PROGRAMS).index(lock) for p in programs for lock, names in PROGRAMS.items() if p in names)
        assert needed == list(PROGRAMS)[largest], task


def test_make_says_what_to_install_and_every_task_that_is_asked_for():
    command = ["make", "--no-print-directory", "-n", "run", "lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"install\.py (.*)", done.stdout) == ["install run lint", "install-dev run lint"]
