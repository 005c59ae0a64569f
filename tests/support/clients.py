"""Clients of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from qbridge_core import QueueClient

C = TypeVar("C", bound=QueueClient)


@contextmanager
def connected(kind: Callable[..., C]) -> Iterator[Callable[..., C]]:
    """Make connected clients, `make(url, option=value)`; all are disconnected in the end."""
    clients: list[C] = []

    def make(url: str, **options: object) -> C:
        client = kind(url, **options)
        clients.append(client)
        client.connect()
        return client

    yield make
    for client in clients:
        client.disconnect()
