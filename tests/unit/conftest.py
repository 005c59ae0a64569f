"""What the unit tests share: a private in-memory broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qbridge_memory import MemoryClient


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client of its own broker, with the queue ``q`` and its dead-letter queue ``d``."""
    with MemoryClient() as connected:
        connected.declare("q", "d")
        yield connected
