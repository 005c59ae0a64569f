"""What the entry point of ``memory://`` names."""

from __future__ import annotations

from collections.abc import Mapping

from qbridge_core.backend import BackendFactory, QueueClient, hookimpl
from qbridge_memory.client import MemoryClient


def _create(url: str, options: Mapping[str, object]) -> QueueClient:
    return MemoryClient(url, **options)


@hookimpl
def qbridge_backends() -> Mapping[str, BackendFactory]:
    """Serve ``memory://``."""
    return {"memory": _create}
