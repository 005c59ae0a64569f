"""How many processors this process may use: those of the machine are often more than a container or an affinity allows.

Sources: sched_setaffinity(2); the documentation of the Linux kernel on cgroup-v2 (cpu.max) and sched-bwc
(cpu.cfs_quota_us, cpu.cfs_period_us of version 1); cgroups(7) for /proc/self/cgroup.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Final

StrPath = str | os.PathLike[str]
_OURS: Final = "/proc/self/cgroup"
_MOUNT: Final = "/sys/fs/cgroup"


def usable_processors(ours: StrPath = _OURS, mount: StrPath = _MOUNT) -> int:
    """The processors of the affinity, or fewer where a control group limits the time; at least 1.

    Args:
        ours: the file that names this process's control groups.
        mount: where they are found.
    """
    limits = [math.ceil(limit) for limit in _limits(ours, os.fspath(mount))]
    return max(1, min([_allowed(), *limits]))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits(ours: StrPath, mount: str) -> Iterator[float]:
    """What this process's group and those around it allow, in processors."""
    for line in _read(ours).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if not controllers:
            bases = [mount, f"{mount}/unified"]
        elif "cpu" in controllers.split(","):
            bases = [f"{mount}/{controllers}", f"{mount}/cpu"]
        else:
            continue
        for base in bases:
            group = f"{base}/{name.strip('/')}".rstrip("/")
            # In a container the name may be the host's, and the files those of the mount itself.
            while group.startswith(base):
                yield from _limit(group)
                group = group.rpartition("/")[0]


def _limit(group: str) -> Iterator[float]:
    quota, _, period = _read(f"{group}/cpu.max").partition(" ")
    if not quota:
        quota, period = _read(f"{group}/cpu.cfs_quota_us"), _read(f"{group}/cpu.cfs_period_us")
    try:
        allowed, per = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return
    if allowed > 0 and per > 0:
        yield allowed / per


def _read(path: StrPath) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
