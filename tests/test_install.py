"""install.py: what make runs first, with Python's standard library alone."""

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


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder with install.py, and locks of nothing but a comment: what pip makes of the real ones is pip's."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        shutil.copy(ROOT / "install.py", folder)
        for lock in ("requirements-dev.txt", "requirements-system.txt"):
            Path(folder, lock).write_text("# nothing\n")
        yield Path(folder)


def install(checkout: Path, *, task: str = "run", before: str = "", **environ: str) -> tuple[int, str]:
    """Run install.py; `before` is Python that makes this machine another one first."""
    script = (
        f"{before}\nimport runpy, sys; sys.argv[1:] = [{task!r}]; runpy.run_path('install.py', run_name='__main__')"
    )
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
    first = subprocess.Popen([sys.executable, "install.py"], cwd=checkout, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdout.readline().startswith("install: Python")
    assert install(checkout) == (0, "install: waiting for another make that installs into this folder\n")
    first.communicate()
    assert first.returncode == 0
    assert (checkout / ".venv" / "bin" / "python").exists()
    # With no network, no pip and no wish to install: there is nothing to do.
    assert install(checkout, before="import subprocess; subprocess.Popen = None") == (0, "")


def test_what_was_killed_is_installed_again_and_what_pip_cannot_install_is_one_line(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", "pyvenv.cfg", "made-by-make"):
        (checkout / ".venv" / name).touch()
    (checkout / "requirements-dev.txt").write_text(f"nothing-of-this-name==1 --hash=sha256:{'0' * 64}\n")
    status, output = install(checkout, PIP_NO_INDEX="1")
    lines = output.splitlines()
    assert status == 1
    assert lines[0].startswith("install: Python")
    assert lines[-1] == "install: No matching distribution found for nothing-of-this-name==1; is there a network?"
    assert not list((checkout / ".venv").glob("installed-*"))


def test_an_environment_that_somebody_else_made_is_left_alone(checkout):
    """docs/operating.md has operators make one, and the service runs from it."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", "pyvenv.cfg"):
        (checkout / ".venv" / name).touch()
    assert install(checkout, task="migrate") == (
        1,
        "install: .venv was not made by make, and is left alone: its tasks are `.venv/bin/python -m app.cli`; "
        "or remove it\n",
    )
    assert (checkout / ".venv" / "bin" / "python").exists()


@contextmanager
def make_run(checkout: Path) -> Iterator[None]:
    """What `make run` holds while it runs, on any system: the lock in which it wrote its address."""
    (checkout / ".local").mkdir()
    with (checkout / ".local" / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("http://127.0.0.1:8000")
        lock.flush()
        yield


@contextmanager
def process(checkout: Path, python: str) -> Iterator[None]:
    """Any process that runs from .venv, such as a service that an operator started."""
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
            # What is up to date may be used by as many as like.
            if number == 0:
                assert install(checkout) == (0, "")
                (checkout / "requirements-dev.txt").write_text("# changed\n")
            status, output = install(checkout)
        assert status == 1
        refused = rf"install: \.venv is out of date, but {who} still runs from it; stop that first\n"
        assert re.fullmatch(refused, output)
        assert kept.exists()
    assert install(checkout)[0] == 0
    assert not kept.exists()


def test_what_only_some_tasks_need_is_installed_by_them_alone_and_on_top(checkout):
    assert install(checkout)[0] == 0
    venv = checkout / ".venv"
    assert [stamp.name for stamp in venv.glob("installed-*")] == ["installed-requirements-dev"]
    (venv / "kept").touch()
    assert install(checkout, task="test-system") == (0, "")
    assert (venv / "installed-requirements-system").exists()
    # Neither makes the other begin anew.
    assert install(checkout, before="import subprocess; subprocess.Popen = None") == (0, "")
    assert (venv / "kept").exists()


def test_make_says_every_task_that_is_asked_for():
    """Only then are all of them installed for, whichever comes first."""
    command = ["make", "--no-print-directory", "-n", "lint", "test-system"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("install.py") == 1
    assert " install.py lint test-system\n" in done.stdout.replace('"', "")
