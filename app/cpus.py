"""How many CPUs this process may use: the default of WEB_CONCURRENCY."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable(root: Path = Path("/")) -> int:
    """Count the CPUs that the process may run on, or fewer where the quota of a cgroup allows less.

    In a container os.cpu_count() is the host's. A part of a CPU counts as one. Source: cgroups(7), and of the Linux
    kernel's documentation cgroup-v2.rst and sched-bwc.rst.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([count, *(math.ceil(quota) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Every quota that holds for the process, in CPUs: that of its own cgroup and of each above it."""
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
        # In a container the path may be the host's, of which the container sees the lowest folder as the top.
        for folder in (own, *own.parents):
            try:
                quota, period = read(top / folder)
            except (OSError, ValueError):  # none here: the folder is not seen, or the quota is "max"
                continue
            if quota > 0 and period > 0:  # -1: version 1 for none
                yield quota / period


def _version_2(folder: Path) -> tuple[int, int]:
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota), int(period)


def _version_1(folder: Path) -> tuple[int, int]:
    quota, period = ((folder / name).read_text() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return int(quota), int(period)
