"""WEB_CONCURRENCY's default: the CPUs that the process may use, and not those of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import cpus
from app.settings import from_environ
from tests.conftest import ROOT

MANY = 64


@pytest.fixture
def big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)), raising=False)


V1 = "9:name=systemd:/\n5:cpu,cpuacct:{path}\n4:memory:/elsewhere\n0::/\n"

TREES = {
    "no cgroups": ({}, MANY),
    "version 2, no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, MANY),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "version 2, a part of a CPU": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "version 2, one and a half": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "version 2, more than all": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"},
        MANY,
    ),
    "version 2, a unit of systemd's": (
        {
            "proc/self/cgroup": "0::/system.slice/progress.service\n",
            "sys/fs/cgroup/system.slice/progress.service/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
        },
        3,
    ),
    "version 2, the slice above has less": (
        {
            "proc/self/cgroup": "0::/system.slice/progress.service\n",
            "sys/fs/cgroup/system.slice/progress.service/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "version 1, no quota": (
        {
            "proc/self/cgroup": V1.format(path="/"),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        MANY,
    ),
    "version 1, in a container that sees the host's path": (
        {
            "proc/self/cgroup": V1.format(path="/docker/0123456789abcdef"),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "version 1, on the host": (
        {
            "proc/self/cgroup": V1.format(path="/system.slice/progress.service"),
            "sys/fs/cgroup/cpu/system.slice/progress.service/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/system.slice/progress.service/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "something else": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, MANY),
}


@pytest.mark.parametrize("name", TREES)
def test_the_quota_of_a_cgroup_bounds_it(tmp_path: Path, big_machine: None, name: str) -> None:
    files, count = TREES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert cpus.usable(tmp_path) == count


def test_without_affinity_it_is_the_machines_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cpus.usable(tmp_path) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.usable(tmp_path) == 1


def test_the_affinity_of_the_process_bounds_it() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    script += "; from app import cpus; print(cpus.usable())"
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout == "1\n"


def test_it_is_the_default_of_web_concurrency() -> None:
    given = {"DATABASE_URL": "postgresql:///x", "AUTH_JWT_SECRET": "x" * 32}
    assert from_environ(given).web_concurrency == cpus.usable()
    assert from_environ(given | {"WEB_CONCURRENCY": "9"}).web_concurrency == 9
