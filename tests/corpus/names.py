"""Writes down the public names of a version, in whose environment it runs: ``python -m corpus.names``."""

from __future__ import annotations

import importlib
import json
import sys
from types import ModuleType

MODULES = (
    "QBridge.rabbitmq_client", "QBridge.task_manager", "qbridge_core", "qbridge_core.backend", "qbridge_core.errors",
    "qbridge_core.hookspecs", "qbridge_core.message", "qbridge_core.testing", "qbridge_memory", "qbridge_rabbitmq",
    "qbridge_redis",
)  # fmt: skip


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, or else what the module itself defines: constants, classes and functions."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(name for name, value in vars(module).items() if name[0] != "_" and _is_own(module, name, value))


def _is_own(module: ModuleType, name: str, value: object) -> bool:
    constant = name.isupper() and name != "TYPE_CHECKING"
    return constant or getattr(value, "__module__", "") == module.__name__


def main() -> None:
    """Print the names of each public module that there is."""
    found = {}
    for name in MODULES:
        try:
            found[name] = public_names(importlib.import_module(name))
        except ModuleNotFoundError as exc:
            if exc.name != name:
                raise
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
