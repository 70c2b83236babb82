"""The image that the Containerfile makes, run as docs/container.md says, by root: on a Debian made here, with buildah.

buildah's own `run` needs no daemon, but gives neither a read-only root nor a process number of its own. So the tests
mount the image and run it in namespaces of util-linux, as a container engine does.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.conftest import ROOT, Postgresql, free_port
from tests.world import SECRET, add_module, add_user, bearer, lesson_path

# How pip reaches its index on this machine, without caches that are folders of this machine.
PIP_SETTINGS = ("cert", "index-url", "proxy", "trusted-host", "default-timeout")
# What a container engine prepares as root. Then the command runs as the image's user, without any capability.
# In order: the root, the user, the group, the folder, and the variables and the command.
RUN = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t tmpfs tmpfs "$1/mnt"
mount -t tmpfs tmpfs "$1/dev"
: > "$1/mnt/${SOCKET##*/}"
mount --bind "$SOCKET" "$1/mnt/${SOCKET##*/}"
for device in null random urandom zero
do
    : > "$1/dev/$device"
    mount --bind "/dev/$device" "$1/dev/$device"
done
mount -o remount,ro "$1/mnt"
mount -o remount,ro "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mount -t proc proc "$1/proc"
root=$1 user=$2 group=$3 folder=$4
shift 4
exec chroot "$root" \
    setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
    env -i -C "$folder" "$@"
"""


class Image(NamedTuple):
    """The image, mounted, what it says of itself, and the size of each file and folder of its base."""

    root: Path
    base: dict[str, int]
    config: dict[str, Any]
    socket: Path  # of PostgreSQL; in /mnt of a container

    def start(self, *command: str, **settings: str) -> subprocess.Popen[str]:
        """Run a command, or the image's own, with no environment but the image's and these settings."""
        environ = [*self.config["Env"], *(f"{name}={value}" for name, value in settings.items())]
        user, group = self.config["User"].split(":")
        place = [str(self.root), user, group, self.config["WorkingDir"]]
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", RUN, "run"]
        return subprocess.Popen(
            [*unshare, *place, *environ, *(command or self.config["Cmd"])],
            env={"PATH": os.environ["PATH"], "SOCKET": str(self.socket)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, **settings: str) -> tuple[int, str, str]:
        """The exit code, the standard output and the standard error of a command."""
        process = self.start(*command, **settings)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, out, err


@pytest.fixture(scope="module")
def image(postgres: Postgresql) -> Iterator[Image]:
    # In memory where there is room: each of the images is a whole copy, of many small files.
    memory = Path("/dev/shm")
    is_large = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    with tempfile.TemporaryDirectory(prefix="progress-image-", dir=memory if is_large else None) as made:
        yield from built(Path(made), Path(postgres.base_dir, "tmp", f".s.PGSQL.{postgres.settings['port']}"))


def built(folder: Path, socket: Path) -> Iterator[Image]:
    """Make a base and the image in a folder; afterwards nothing there is mounted any more."""
    storage = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def buildah(*words: str) -> str:
        done = subprocess.run(["buildah", *storage, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    sources = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    [release] = re.findall(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M)
    debian = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,python3-venv", release]
    debian += [str(folder / "base.tar"), str(next(path for path in sources if path.exists()))]
    subprocess.run(debian, check=True, env=os.environ | {"TMPDIR": str(folder)})
    scratch = buildah("from", "scratch")
    buildah("add", "--quiet", scratch, str(folder / "base.tar"), "/")
    buildah("commit", "--quiet", "--rm", scratch, "base")

    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pip = {
        name: value for name, value in re.findall(r"^\S+\.(\S+)='(.*)'$", shown.stdout, re.M) if name in PIP_SETTINGS
    }
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in pip.items()))
    build = ["build", "--isolation", "chroot", "--file", str(ROOT / "Containerfile"), "--tag", "progress-tracking"]
    build += ["--build-arg", "BASE=localhost/base", "--secret", f"id=pip,src={folder / 'pip.conf'}"]
    if "cert" in pip:
        build += ["--volume", f"{pip['cert']}:{pip['cert']}:ro"]
    buildah(*build, str(ROOT))

    inspected = json.loads(buildah("inspect", "--type", "image", "progress-tracking"))
    container = buildah("from", "localhost/progress-tracking")
    root = Path(buildah("mount", container))
    with tarfile.open(folder / "base.tar") as base:
        files = {os.path.normpath(member.name): member.size for member in base}
    yield Image(root, files, inspected["OCIv1"]["config"], socket)
    buildah("umount", container)


def test_the_image_adds_the_service_to_its_base_and_nothing_else(image):
    files = {str(path.relative_to(image.root)): path.lstat() for path in image.root.rglob("*")}
    changed = {
        name
        for name, stat in files.items()
        if S_ISREG(stat.st_mode) and stat.st_nlink == 1 and stat.st_size != image.base.get(name, stat.st_size)
    }
    assert changed == {"etc/passwd", "etc/group"}
    # buildah leaves the place behind where it mounts /etc/hosts for a step of the build.
    added = {name: stat for name, stat in files.items() if name not in {*image.base, "etc/hosts"}}
    assert {name.split("/")[0] for name in added} == {"opt"}
    assert sum(stat.st_blocks * 512 for stat in added.values()) < 150_000_000
    # No tool that builds or installs, nothing of the demo, nothing that belongs to the checkout alone.
    names = {Path(name).name for name in added}
    assert not {"pip", "setuptools", "wheel", "uv", "gcc", "demo", ".git", ".env", ".venv"} & names
    service = "opt/progress-tracking/"
    assert {name.removeprefix(service).split("/")[0] for name in added if name.startswith(service)} == {
        *("app", "deploy", "migrations", "sql", "gunicorn.conf.py", "wsgi.py", "__pycache__")
    }
    # The service's user owns nothing, and everybody may read everything.
    assert {(stat.st_uid, stat.st_gid) for stat in added.values()} == {(0, 0)}
    for name, stat in added.items():
        if not S_ISLNK(stat.st_mode):
            assert stat.st_mode & 0o022 == 0, name
            assert stat.st_mode & 0o004, name


@pytest.fixture
def database(image, new_database) -> Iterator[tuple[psycopg.Connection, Callable[[str], str]]]:
    """A connection to an empty database, and its URL in a container for a role. There is a role in_a_container."""
    url = new_database()
    with closing(psycopg.connect(url, autocommit=True)) as connection:

        def inside(role: str) -> str:
            return f"postgresql://{role}@/{connection.info.dbname}?host=/mnt&port={connection.info.port}"

        connection.execute("create role in_a_container login")
        yield connection, inside
        connection.execute("drop owned by in_a_container; drop role in_a_container")


def call(port: int, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers or {})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.status, response.read()


def child(process: subprocess.Popen[str]) -> int:
    """The process number, on this machine, of a container's first process."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def test_the_image_migrates_grants_serves_and_stops(image, database):
    connection, inside = database
    owner = inside("postgres")
    code, out, err = image.run("python", "-m", "app.cli", "migrate", DATABASE_URL=owner)
    assert (code, err) == (0, "")
    assert "applied 0001_users\n" in out
    grants = ("python", "-m", "app.cli", "grants", "--role=in_a_container")
    assert image.run(*grants, DATABASE_URL=owner)[::2] == (0, "")
    add_user(connection)
    add_module(connection, 1, 2)

    port = free_port()
    settings = {"DATABASE_URL": inside("in_a_container"), "AUTH_JWT_SECRET": SECRET, "METRICS": "on"}
    process = image.start(PORT=str(port), WEB_CONCURRENCY="2", **settings)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert call(port, "GET", "/readyz")[0] == 200
                break
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, "the container does not answer"
                time.sleep(0.05)
        assert call(port, "POST", lesson_path(2), bearer())[0] == 200
        assert b"progress_requests_total{" in call(port, "GET", "/metrics")[1]
        assert connection.execute("select count(*) from progress").fetchone() == (1,)

        first = child(process)
        workers = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        assert len(workers) == 2
        for pid in (str(first), *workers):
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.M)
            assert re.search(r"^CapEff:\t0+$", status, re.M)
        # The first process of its namespace has no default action for a signal. gunicorn handles this one.
        assert re.search(r"^NSpid:\t\d+\t1$", Path(f"/proc/{first}/status").read_text(), re.M)
        started = time.monotonic()
        os.kill(first, signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert time.monotonic() - started < 10
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in lines if line.get("route", "").startswith("/api/progress/lessons")] == [200]


def test_a_start_that_is_refused_says_why_in_one_line(image, database):
    _, inside = database
    for settings, line in (
        ({}, "DATABASE_URL: is not set; "),
        ({"DATABASE_URL": inside("in_a_container")}, "AUTH_SECRET: is not set, and neither is "),
        ({"DATABASE_URL": inside("in_a_container"), "AUTH_JWT_SECRET": SECRET}, "pending migrations: 0001_users, "),
    ):
        code, out, err = image.run(**settings)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(line)


def test_nothing_but_the_folder_for_temporary_files_can_be_written(image):
    """What the test above relies on: the root of its containers is read-only."""
    for folder, code in (("/tmp", 0), ("/opt/progress-tracking", 1), ("/var/tmp", 1), ("/", 1)):
        assert image.run("python", "-c", f"open('{folder}/x', 'w')")[0] == code
    said = image.run("python", "-c", "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name)")
    assert said == (0, "progress\n", "")
