"""The memory backend adopts the suite once more, with a clock that does not go by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from conformance.own_backends import OwnBackend
from qbridge_core.backend import monotonic
from qbridge_memory import MemoryClient, reset
from qbridge_pytest.clock import VirtualClock

_NAME = "conformance-in-virtual-time"
_STEP = 0.005


class Followed(VirtualClock):
    """Stands where a real clock has gone when it was looked at last; what waits for it is told every now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = monotonic()

    def wall(self) -> float:
        """Unix time."""
        self.monotonic()
        return super().wall()

    def monotonic(self) -> float:
        """Seconds since it was made."""
        self._elapsed = max(self._elapsed, monotonic() - self.offset)
        return super().monotonic()


@pytest.fixture(autouse=True, scope="module")
def passing_time() -> Iterator[None]:
    """Makes the broker, whose clock is that of all its clients, and tells it of the time that has passed."""
    time, ended = Followed(), threading.Event()
    MemoryClient(f"memory://{_NAME}", clock=time.clock)

    def tell() -> None:
        while not ended.wait(_STEP):
            time.advance(0)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()
    reset(_NAME)


class TestVirtualTime(OwnBackend):
    """``memory://`` with a clock whose hands somebody else moves."""

    url = f"memory://{_NAME}"
