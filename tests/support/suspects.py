"""A broker that says of chosen messages that workers have died with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qbridge_core import Delivery
from qbridge_core.message import CRASHES, meta_int
from qbridge_memory import MemoryClient


class CountingClient(MemoryClient):
    """Says of chosen messages that so many workers have died with them, as a real broker would after a SIGKILL.

    ``deaths[queue](body)`` is added to what the message itself knows.
    """

    capabilities = replace(MemoryClient.capabilities, crashes=True)

    def __init__(self) -> None:
        super().__init__("memory://")
        self.deaths: dict[str, Callable[[bytes], int]] = {}

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        """Receive, and add the deaths."""
        batch = super().receive(queue, max_messages, timeout)
        deaths = self.deaths.get(queue)
        for delivery in batch:
            delivery.crashes = meta_int(delivery.meta, CRASHES) + (deaths(delivery.body) if deaths is not None else 0)
        return batch


def suspected(text: bytes, deaths: int = 1) -> Callable[[bytes], int]:
    """So many deaths for the messages that contain the text."""
    return lambda body: deaths if text in body else 0


def suspected_once(text: bytes) -> Callable[[bytes], int]:
    """One death for each message that contains the text, when it is received for the first time."""
    seen: set[bytes] = set()

    def deaths(body: bytes) -> int:
        first = text in body and body not in seen
        seen.add(body)
        return int(first)

    return deaths
