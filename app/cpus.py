"""How many CPUs this process may use: the default of WEB_CONCURRENCY."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable(root: Path = Path("/")) -> int:
    """Return the number of CPUs that the process may run on, or less if the quota of a cgroup is less.

    In a container, os.cpu_count() would count the CPUs of the host. A part of a CPU counts as a whole one. Sources:
    cgroups(7), and cgroup-v2.rst and sched-bwc.rst in the documentation of the Linux kernel.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([count, *(math.ceil(quota) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Yield every quota of the process, in CPUs: the quota of its own cgroup, and of each cgroup above that."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, read = root / "sys/fs/cgroup", _version_2
        elif "cpu" in controllers.split(","):
            top, read = root / "sys/fs/cgroup/cpu", _version_1
        else:
            continue
        own = Path(path.lstrip("/"))
        # In a container, the path may be the path on the host. The container sees the last folder of it as the top.
        for folder in (own, *own.parents):
            try:
                quota, period = read(top / folder)
            except (OSError, ValueError):  # no quota: the folder is not visible, or the quota is "max"
                continue
            if quota > 0 and period > 0:  # version 1 has -1 for no quota
                yield quota / period


def _version_2(folder: Path) -> tuple[int, int]:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota), int(period)


def _version_1(folder: Path) -> tuple[int, int]:
    quota, period = ((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return int(quota), int(period)
