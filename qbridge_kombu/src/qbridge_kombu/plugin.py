"""What the entry points of ``kombu+…://`` name."""

from __future__ import annotations

from collections.abc import Mapping

from qbridge_core.backend import BackendFactory, QueueClient, hookimpl
from qbridge_kombu.client import KombuClient
from qbridge_kombu.transports import SCHEMES


def _create(url: str, options: Mapping[str, object]) -> QueueClient:
    return KombuClient(url, **options)


@hookimpl
def qbridge_backends() -> Mapping[str, BackendFactory]:
    """Serve each kind of broker, and any other transport of kombu's by its class."""
    return dict.fromkeys(SCHEMES, _create)
