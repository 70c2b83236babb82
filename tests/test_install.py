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
from typing import NamedTuple

import pytest

from tests.conftest import ROOT, in_memory
from tests.test_locks import LOCKS


@contextmanager
def new_checkout() -> Iterator[Path]:
    """Yield a folder with install.py and locks that pin no package. Installing packages is the work of pip."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        shutil.copy(ROOT / "install.py", folder)
        for lock in LOCKS:
            if lock != "requirements.txt":
                Path(folder, lock).write_text("# nothing\n")
        yield Path(folder)


@pytest.fixture
def checkout() -> Iterator[Path]:
    with new_checkout() as folder:
        yield folder


def install(checkout: Path, *arguments: str, before: str = "", **environ: str) -> tuple[int, str]:
    """Run install.py. `before` is Python code that runs first, to change what install.py sees of the machine."""
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


class Installed(NamedTuple):
    checkout: Path
    first: tuple[int, str]
    second: tuple[int, str]


@pytest.fixture(scope="module")
def installed_by_two() -> Iterator[Installed]:
    """Yield a checkout into which two processes installed at once.

    Making .venv takes seconds, so the other tests begin with a copy of this one.
    """
    with new_checkout() as folder:
        first = subprocess.Popen(
            [sys.executable, "install.py", "install", "run"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        assert first.stdout
        said = first.stdout.readline()
        second = install(folder)
        said += first.communicate()[0]
        yield Installed(folder, (first.returncode, said), second)


@pytest.fixture
def installed(installed_by_two: Installed, checkout: Path) -> Path:
    """Return a checkout after the installation of `make run`. Its .venv has a file that a new .venv would not have."""
    shutil.copytree(installed_by_two.checkout / ".venv", checkout / ".venv", symlinks=True)
    (checkout / ".venv" / "kept").touch()
    return checkout


def is_kept(checkout: Path) -> bool:
    return (checkout / ".venv" / "kept").exists()


def locks_of(checkout: Path) -> list[str]:
    """Return the locks that are installed in a checkout."""
    return sorted(stamp.name.removeprefix("installed-requirements-") for stamp in checkout.glob(".venv/installed-*"))


OUT_OF_DATE = r"install: \.venv is out of date, but {} still runs from it; stop it first\n"
# With this as `before`, install.py fails if it starts any program.
NO_PIP = "import subprocess; subprocess.Popen = None"


def test_two_at_once_install_once_and_then_there_is_nothing_to_do(installed_by_two):
    version = ".".join(map(str, sys.version_info[:3]))
    assert installed_by_two.first == (0, f"install: creating .venv with Python {version}\n")
    assert installed_by_two.second == (0, "install: waiting for another make that installs into this folder\n")
    assert (installed_by_two.checkout / ".venv" / "bin" / "python").exists()
    assert install(installed_by_two.checkout, before=NO_PIP) == (0, "")


def test_what_pip_cannot_install_is_one_line_and_is_tried_again(installed):
    lock = installed / "requirements-dev.txt"
    lock.write_text(f"nothing-of-this-name==1 --hash=sha256:{'0' * 64}\n")
    fault = "install: No matching distribution found for nothing-of-this-name==1; is there a network?\n"
    for _ in range(2):
        assert install(installed, "install-dev", "test", PIP_NO_INDEX="1") == (1, fault)
        assert locks_of(installed) == ["demo"]
    lock.write_text("# nothing\n")
    assert install(installed, "install-dev", "test") == (0, "")
    assert locks_of(installed) == ["demo", "dev"]


def test_an_environment_that_somebody_else_made_is_left_alone(checkout):
    """docs/operating.md tells operators to make a .venv, and the service runs from it."""
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


def test_a_changed_lock_takes_nothing_from_under_what_runs(installed, installed_by_two):
    link = installed / "link"
    link.symlink_to(installed)
    users = [
        (make_run(installed), "`make run` at http://127.0.0.1:8000"),
        (process(installed, ".venv/bin/python"), r"process \d+"),
        (process(installed, str(installed / ".venv/bin/python")), r"process \d+"),
        (process(Path("/"), str(link / ".venv/bin/python")), r"process \d+"),
    ]
    for number, (using, who) in enumerate(users):
        with using:
            # If .venv is up to date, processes may run from it.
            if number == 0:
                assert install(installed) == (0, "")
                (installed / "requirements-demo.txt").write_text("# changed\n")
            status, output = install(installed)
        assert status == 1
        assert re.fullmatch(OUT_OF_DATE.format(who), output)
        assert is_kept(installed)
    # Making a .venv takes seconds, so the new one is a copy.
    made = str(installed_by_two.checkout / ".venv")
    copying = f"shutil.copytree({made!r}, folder, symlinks=True, dirs_exist_ok=True)"
    before = f"import shutil, venv; venv.create = lambda folder, with_pip: {copying}"
    assert install(installed, before=before)[0] == 0
    assert not is_kept(installed)
    assert locks_of(installed) == ["demo"]


def test_a_larger_lock_is_installed_on_top_and_only_where_it_is_asked_for(installed):
    assert locks_of(installed) == ["demo"]
    # Processes that run from .venv may go on, because a larger lock has the same packages and more.
    with make_run(installed):
        assert install(installed, "install-dev", "test") == (0, "")
        assert locks_of(installed) == ["demo", "dev"]
        assert install(installed, "install-system", "test-system") == (0, "")
    assert locks_of(installed) == ["demo", "dev", "system"]
    # The next `make run` removes none of the packages.
    assert install(installed, "install", "run", before=NO_PIP) == (0, "")
    assert is_kept(installed)


def test_a_lock_that_was_installed_and_has_changed_needs_a_new_environment(installed):
    """In the old environment, pip would not remove packages that the lock no longer names."""
    assert install(installed, "install-dev", "test") == (0, "")
    (installed / "requirements-dev.txt").write_text("# changed\n")
    assert install(installed, "install", "run", before=NO_PIP) == (0, "")
    with make_run(installed):
        status, output = install(installed, "install-dev", "test")
    assert status == 1
    assert re.fullmatch(OUT_OF_DATE.format(".*"), output)


def test_an_environment_of_a_version_without_the_smallest_lock_is_made_anew(installed):
    """An earlier version of the project installed one large lock for every task."""
    (installed / ".venv" / "installed-requirements-demo").rename(installed / ".venv" / "installed-requirements-dev")
    with make_run(installed):
        status, output = install(installed, "install", "run")
    assert status == 1
    assert re.fullmatch(OUT_OF_DATE.format(".*"), output)


# Every program of a recipe in the Makefile, and the lock that installs it.
PROGRAMS = {
    "install": ("app.demo", "app.demo.stripe_event", "app.cli"),
    "install-dev": (
        *("pytest", "ruff", "mypy", "sqlfluff", "squawk", "uv"),
        *("tests.bench", "tests.bench.connections", "tests.bench.scale", "tests.bench.explain"),
    ),
    "install-system": ("tests.system", "tests.mutation", "tests.licences", "pip_audit"),
}


def test_every_task_installs_what_its_programs_need_and_no_more():
    makefile = (ROOT / "Makefile").read_text()
    for task, needed, recipe in re.findall(r"^([a-z-]+): ([a-z-]+) .*\n((?:\t.*\n)+)", makefile, re.M):
        programs = re.findall(r"(?:\$\(RUN\) |\.venv/bin/)([\w.]+)", recipe)
        locks = [number for p in programs for number, names in enumerate(PROGRAMS.values()) if p in names]
        assert len(locks) == len(programs) > 0, f"PROGRAMS does not say what {task} needs"
        assert needed == list(PROGRAMS)[max(locks)], task


def test_make_says_what_to_install_and_every_task_that_is_asked_for():
    command = ["make", "--no-print-directory", "-n", "run", "lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"install\.py (.*)", done.stdout) == ["install run lint", "install-dev run lint"]
