"""The first step of every make task: bring .venv to what the locks say. It uses Python's standard library alone.

The file must parse on Python 3.6 and later. An older Python than the service needs then gets one line that says so.
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

NEEDED_PYTHON = (3, 11)
FOLDER = Path(__file__).resolve().parent
VENV = FOLDER / ".venv"
# `make run` holds a lock on this file while it runs, and writes its address into it.
RUN_LOCK = FOLDER / ".local" / "run.lock"
# The locks that each install target of the Makefile needs, the smallest first. Each lock repeats the pins of the one
# before it, so a larger lock is installed on top of a smaller one. `make run` does not wait for linters and test tools.
LOCKS = {
    "install": ["requirements-demo.txt"],
    "install-dev": ["requirements-demo.txt", "requirements-dev.txt"],
    "install-system": ["requirements-demo.txt", "requirements-dev.txt", "requirements-system.txt"],
}


def main():
    """Bring .venv up to date, or exit with one line that says what to do.

    Arguments: the target of LOCKS, then the tasks that the user asked make for.
    """
    if sys.version_info < NEEDED_PYTHON:
        sys.exit(
            "install: this is Python {}.{}, and 3.11 or newer is needed; with one installed beside it: "
            "make {} PYTHON=python3.12".format(
                sys.version_info[0], sys.version_info[1], " ".join(sys.argv[2:]) or "run"
            )
        )
    locks = [FOLDER / name for name in LOCKS[sys.argv[1]]]
    if all(map(up_to_date, locks)):
        return
    with (FOLDER / ".venv.lock").open("w") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("install: waiting for another make that installs into this folder", flush=True)
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        # pip does not remove a package that a lock no longer names. So a lock that changed after it was installed needs
        # a new .venv.
        if not up_to_date(locks[0]) or any(stamp(lock).exists() and not up_to_date(lock) for lock in locks):
            make_venv()
        for lock in locks:
            if not up_to_date(lock):
                install(lock)
                # Written last: an installation that was killed has no stamp, and is repeated.
                stamp(lock).write_text(wanted(lock))


def wanted(lock):
    """Return a hash of the lock's text and of the Python that it is installed for."""
    return hashlib.sha256(lock.read_bytes() + sys.version.encode() + sys.base_prefix.encode()).hexdigest()


def stamp(lock):
    """Return the path of the file that holds the hash of the installed lock."""
    return VENV / "installed-{}".format(lock.stem)


def up_to_date(lock):
    """Return whether the lock is installed as it stands now, and the Python of .venv still exists."""
    return (VENV / "bin" / "python").exists() and stamp(lock).exists() and stamp(lock).read_text() == wanted(lock)


def make_venv():
    """Replace .venv by an empty one. Exit with one line if that fails, or if make did not create the old one."""
    ours = VENV / "made-by-make"
    if (VENV / "pyvenv.cfg").exists() and not ours.exists() and not list(VENV.glob("installed*")):
        # An operator made this .venv, and a service may run from it.
        sys.exit(
            "install: .venv was not made by make, so make does not change it; run the tasks as "
            "`.venv/bin/python -m app.cli`, or remove .venv"
        )
    user = user_of_venv()
    if user:
        sys.exit("install: .venv is out of date, but {} still runs from it; stop it first".format(user))
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
    print("install: creating .venv with Python {}".format(platform.python_version()), flush=True)
    shutil.rmtree(str(VENV), ignore_errors=True)
    try:
        VENV.mkdir(exist_ok=True)
        ours.touch()
        venv.create(str(VENV), with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit("install: .venv cannot be made: {}".format(error))


def user_of_venv():
    """Return the name of a process that runs from .venv, or None.

    Such a process would fail at its next import, or when it starts a worker.
    """
    if RUN_LOCK.exists():
        with RUN_LOCK.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return "`make run` at {}".format(lock.read().strip())
    # On Linux, look for any other process too, for example a service. The working folder of another user's process
    # cannot be read, but a service is started by an absolute path.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = Path(os.fsdecode((process / "cmdline").read_bytes().split(b"\0")[0]))
            if not program.is_absolute():
                program = (process / "cwd").resolve() / program
            # Resolve the folder and not the program: the program is a link to the machine's own Python.
            if program.parent.resolve() == VENV / "bin":
                return "process {}".format(process.name)
        except OSError:
            continue
    return None


def install(lock):
    """Install a lock into .venv and print a line for each new package. Exit with one line if that fails."""
    environ = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    # pip prints a long warning if it cannot write its cache to the home folder.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if not os.access(str(home), os.W_OK):
        environ["PIP_NO_CACHE_DIR"] = "1"
    # Use `python -m pip`: the script .venv/bin/pip fails if the path of .venv is long or has a space.
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
