"""What the entry points of ``redis://`` and its relatives name."""

from __future__ import annotations

from collections.abc import Mapping

from qbridge_core import BackendFactory, QueueClient, hookimpl
from qbridge_redis.client import RedisClient


def _create(url: str, options: Mapping[str, object]) -> QueueClient:
    return RedisClient(url, **options)


@hookimpl
def qbridge_backends() -> Mapping[str, BackendFactory]:
    """Serve a single server, one that sentinels watch, and a cluster, each with and without TLS."""
    return {f"{scheme}{kind}": _create for scheme in ("redis", "rediss") for kind in ("", "+sentinel", "+cluster")}
