"""What make runs first: .venv, with what requirements-dev.txt locks. Nothing but Python's standard library.

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
LOCK = FOLDER / "requirements-dev.txt"


def main():
    """Bring .venv up to date, or exit with one line that says what to install."""
    if sys.version_info < NEEDED:
        sys.exit(
            "install: this is Python {}.{}, and 3.11 or newer is needed; with one installed beside it: "
            "make {} PYTHON=python3.12".format(
                sys.version_info[0], sys.version_info[1], " ".join(sys.argv[1:]) or "run"
            )
        )
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode() + sys.base_prefix.encode()).hexdigest()
    if up_to_date(wanted):
        return
    with (FOLDER / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("install: waiting for another make that installs into this folder", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not up_to_date(wanted):
            install()
            # Last, so that an installation that was killed is done again.
            (VENV / "installed").write_text(wanted)


def up_to_date(wanted):
    """Tell whether .venv holds exactly what is wanted, on a Python that is still there."""
    stamp = VENV / "installed"
    return (VENV / "bin" / "python").exists() and stamp.exists() and stamp.read_text() == wanted


def install():
    """Make .venv anew and install the lock into it, a line for each step; exit with one line where that fails."""
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
    environ = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    # pip complains at length about a home folder that it cannot write its cache to.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if not os.access(str(home), os.W_OK):
        environ["PIP_NO_CACHE_DIR"] = "1"
    try:
        venv.create(str(VENV), with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit("install: .venv cannot be made: {}".format(error))
    # Always `python -m`: the scripts in .venv/bin fail in a folder with a space or a long path.
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--require-hashes", "-r", str(LOCK)]
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
