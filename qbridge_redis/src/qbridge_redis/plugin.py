"""What the entry points of ``redis://`` and its relatives name."""

from __future__ import annotations

from collections.abc import Mapping

from qbridge_core.backend import BackendFactory, QueueClient, hookimpl
from qbridge_redis.client import RedisClient


def _create(url: str, options: Mapping[str, object]) -> QueueClient:
    return RedisClient(url, **options)


@hookimpl
def qbridge_backends() -> Mapping[str, BackendFactory]:
    """Serve one server, one that sentinels watch, and a cluster, each with and without TLS, and one by its socket."""
    schemes = [f"{scheme}{kind}" for scheme in ("redis", "rediss") for kind in ("", "+sentinel", "+cluster")]
    return dict.fromkeys([*schemes, "unix"], _create)
