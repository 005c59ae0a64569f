"""What the unit tests share: a private in-memory broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qbridge_core import App
from qbridge_core.app.connection import URL_VARIABLE
from qbridge_memory import MemoryClient


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client of its own broker, with the queue ``q`` and its dead-letter queue ``d``."""
    with MemoryClient() as connected:
        connected.declare("q", "d")
        yield connected


@pytest.fixture
def app(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app on a broker of its own, whose workers put nothing off."""
    monkeypatch.setenv(URL_VARIABLE, f"memory://{unique_name}")
    app = App(on_unknown=0)
    yield app
    app.close()
