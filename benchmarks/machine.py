"""Where a run took place: processor, memory, versions, settings."""

from __future__ import annotations

import os
import platform
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.environments import Environments, InstallationError, versions
from benchmarks.servers import Server


def describe(
    servers: dict[str, Server], used: set[str], environments: Environments, options: Namespace
) -> dict[str, Any]:
    """Everything that somebody needs to repeat the run or to doubt it; `used` are the environments."""
    return {
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory": _field(Path("/proc/meminfo"), "MemTotal"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "rounds": options.rounds,
        "scale": options.scale,
        "servers": {kind: f"{server.version()}, {server.settings}" for kind, server in servers.items()},
        "versions": {name: _versions(name, environments) for name in sorted(used)},
    }


def _versions(name: str, environments: Environments) -> dict[str, str]:
    try:
        return versions(environments.python(name))
    except InstallationError as exc:
        return {"not installed": str(exc)}


def _field(path: Path, name: str) -> str:
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
