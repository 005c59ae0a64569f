"""How many processors a process may use, which decides how many tasks run at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from qbridge_core import TaskManager
from qbridge_core.runtime.processors import usable_processors
from qbridge_core.work import plan
from qbridge_memory import MemoryClient

MACHINE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
PROGRAM = """
import os
os.sched_setaffinity(0, {0})
from qbridge_core import TaskManager
from qbridge_core.runtime.processors import usable_processors
from qbridge_memory import MemoryClient
client = MemoryClient()
client.connect()
from qbridge_core.execute.threadpool import ThreadPool
from json import loads
for more in ({}, {"executor": "process"}):
    print(TaskManager(client, loads, "q", "d", **more)._plan.workers)
print(usable_processors(), ThreadPool()._size)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_an_affinity_is_obeyed() -> None:
    """Bound to one processor: it counts one, has one child process, and 5 threads for tasks or coroutines' calls."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["5", "1", "1", "5"]


@pytest.mark.parametrize(("executor", "workers"), [("process", {1: 1, 3: 3, 64: 64}), ("thread", {1: 5, 3: 7, 64: 32})])
def test_the_usual_number_of_workers_follows_the_processors(
    client: MemoryClient,
    monkeypatch: pytest.MonkeyPatch,
    executor: Literal["thread", "process"],
    workers: dict[int, int],
) -> None:
    """As many child processes as an affinity and a container's limit leave; threads, which wait a lot, are 4 more."""
    for processors, expected in workers.items():
        monkeypatch.setattr(plan, "usable_processors", partial(int, processors))
        assert TaskManager(client, json.loads, "q", "d", executor=executor)._plan.workers == expected


@pytest.mark.parametrize(
    ("cgroup", "files", "allowed"),
    [
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/app", {"app/cpu.max": "100001 100000"}, 2),
        ("0::/app/deep", {"app/cpu.max": "100000 100000", "app/deep/cpu.max": "max 100000"}, 1),
        ("0::/of/the/host", {"cpu.max": "100000 100000"}, 1),
        ("0::/../escaped", {"cpu.max": "100000 100000"}, 1),
        ("4:memory:/x\n3:cpu,cpuacct:/app", {"cpu,cpuacct/app/cpu.cfs_quota_us": "50000"}, 1),
        ("3:cpu:/app", {"cpu/app/cpu.cfs_quota_us": "-1"}, MACHINE),
        ("3:cpuset:/app", {"cpuset/app/cpu.cfs_quota_us": "50000"}, MACHINE),
        ("0::/", {"cpu.max": "max 100000"}, MACHINE),
        ("0::/", {"cpu.max": "nonsense"}, MACHINE),
        ("0::/", {"cpu.max": "100000 0"}, MACHINE),
        ("", {}, MACHINE),
        ("0::/", {"cpu.max": "99999999 100000"}, MACHINE),
    ],
)
def test_a_containers_limit_is_obeyed(tmp_path: Path, cgroup: str, files: dict[str, str], allowed: int) -> None:
    """Both versions of control groups, rounded up, at least 1, never more than the machine has; else the machine's."""
    ours, mount = tmp_path / "cgroup", tmp_path / "mount"
    ours.write_text(cgroup)
    for name, text in files.items():
        path = mount / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith("quota_us"):
            path.with_name("cpu.cfs_period_us").write_text("100000\n")
    assert usable_processors(ours, mount) == min(allowed, MACHINE or 1)


def test_a_system_without_control_groups_counts_its_processors(tmp_path: Path) -> None:
    """Where the files are not there, nothing is limited."""
    assert usable_processors(tmp_path / "none", tmp_path / "nowhere") == MACHINE
