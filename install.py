"""What make runs first: .venv, with what the locks say. Nothing but Python's standard library.

It must parse on any Python 3.6 and later, so that one that is too old is told so in one line.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

NEEDED = (3, 11)
FOLDER = Path(__file__).resolve().parent
VENV = FOLDER / ".venv"
# `make run` holds this file's lock, and its address is in it.
RUN_LOCK = FOLDER / ".local" / "run.lock"
LOCK = FOLDER / "requirements-dev.txt"
# What these tasks need besides is large, and nobody who only wants to see the service run should wait for it.
SYSTEM_LOCK = FOLDER / "requirements-system.txt"
SYSTEM_TASKS = ("test-system", "test-deep", "mutate", "audit")


def main():
    """Bring .venv up to date, or exit with one line that says what to install."""
    if sys.version_info < NEEDED:
        sys.exit(
            "install: this is Python {}.{}, and 3.11 or newer is needed; with one installed beside it: "
            "make {} PYTHON=python3.12".format(
                sys.version_info[0], sys.version_info[1], " ".join(sys.argv[1:]) or "run"
            )
        )
    locks = [LOCK, SYSTEM_LOCK] if set(sys.argv[1:]) & set(SYSTEM_TASKS) else [LOCK]
    if all(map(up_to_date, locks)):
        return
    with (FOLDER / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("install: waiting for another make that installs into this folder", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for each in locks:
            if not up_to_date(each):
                if each is LOCK:
                    make_venv()
                install(each)
                # Last, so that an installation that was killed is done again.
                stamp(each).write_text(wanted(each))


def wanted(lock):
    """Name what .venv holds once a lock is installed: the lock's text, and the Python that it is for."""
    return hashlib.sha256(lock.read_bytes() + sys.version.encode() + sys.base_prefix.encode()).hexdigest()


def stamp(lock):
    """The file that says which text of a lock is installed."""
    return VENV / "installed-{}".format(lock.stem)


def up_to_date(lock):
    """Tell whether .venv holds exactly what a lock says, on a Python that is still there."""
    return (VENV / "bin" / "python").exists() and stamp(lock).exists() and stamp(lock).read_text() == wanted(lock)


def make_venv():
    """Make .venv anew; exit with one line where that fails, or where it is somebody else's."""
    ours = VENV / "made-by-make"
    if (VENV / "pyvenv.cfg").exists() and not ours.exists() and not list(VENV.glob("installed*")):
        # A service may be running from it.
        sys.exit(
            "install: .venv was not made by make, and is left alone: its tasks are `.venv/bin/python -m app.cli`; "
            "or remove it"
        )
    user = user_of_venv()
    if user:
        sys.exit("install: .venv is out of date, but {} still runs from it; stop that first".format(user))
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        sys.exit(
            "install: this Python {}.{} cannot make virtual environments; on Debian and Ubuntu: "
            "apt install python3-venv".format(*sys.version_info[:2])
        )
    libc = platform.libc_ver()
    if sys.platform.startswith("linux") and (libc[0] != "glibc" or tuple(map(int, libc[1].split("."))) < (2, 28)):
        sys.exit(
            "install: the PostgreSQL that `make run` and the tests bring along needs glibc 2.28 or newer (Debian 10, "
            "Ubuntu 20.04, RHEL 8); this machine has {}".format(" ".join(libc).strip() or "another C library")
        )
    print("install: Python {} into .venv, once".format(platform.python_version()), flush=True)
    shutil.rmtree(str(VENV), ignore_errors=True)
    try:
        VENV.mkdir(exist_ok=True)
        ours.touch()
        venv.create(str(VENV), with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit("install: .venv cannot be made: {}".format(error))


def user_of_venv():
    """Name somebody who runs from .venv, or None: what they import later, or a new worker, would not be there."""
    if RUN_LOCK.exists():
        with RUN_LOCK.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return "`make run` at {}".format(lock.read().strip())
    # On Linux also what was started otherwise, a service for instance. The folder of another user's process cannot be
    # read; a service's command is an absolute path.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = Path(os.fsdecode((process / "cmdline").read_bytes().split(b"\0")[0]))
            if not program.is_absolute():
                program = (process / "cwd").resolve() / program
            # Not the program itself, which is a link to the machine's Python.
            if program.parent.resolve() == VENV / "bin":
                return "process {}".format(process.name)
        except OSError:
            continue
    return None


def install(lock):
    """Install a lock into .venv, a line for each package; exit with one line where that fails."""
    environ = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    # pip complains at length about a home folder that it cannot write its cache to.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if not os.access(str(home), os.W_OK):
        environ["PIP_NO_CACHE_DIR"] = "1"
    # Always `python -m`: the scripts in .venv/bin fail in a folder with a space or a long path.
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "-r", str(lock)]
    with subprocess.Popen(pip, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        last = "pip failed"
        for line in process.stdout:
            collecting = re.match(r"Collecting ([^\s=]+)==(\S+)", line)
            if collecting:
                print("install:   {} {}".format(*collecting.groups()), flush=True)
            elif line.startswith("Installing collected"):
                print("install: unpacking", flush=True)
            elif line.startswith("ERROR: "):
                last = line[len("ERROR: ") :].strip()
    if process.returncode:
        sys.exit("install: {}; is there a network?".format(last))


if __name__ == "__main__":
    try:
        main()
    except PermissionError as error:
        sys.exit("install: {} is another user's: run as that user, or in a checkout of your own".format(error.filename))
