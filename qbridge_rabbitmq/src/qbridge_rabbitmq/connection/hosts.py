"""The servers of a cluster: which one the connections of a client use, and which one they try next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from qbridge_core.backend import random_bytes

Address = tuple[str, int]
_SHORTEST_TRIAL: Final = 2.0


class Hosts:
    """The addresses of one client, shared by its connections. For the I/O thread.

    Both connections go to one server as long as it serves them: there a queue is known as soon as it was declared,
    while another one may learn of it a moment later. When it is lost, all go on to the next.

    Args:
        addresses: in the order in which they are tried.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(addresses)
        self._position = 0
        self._open: Counter[Address] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def current(self) -> Address:
        """Where to connect."""
        return self._addresses[self._position]

    def opened(self, address: Address) -> None:
        """A connection is there."""
        self._open[address] += 1

    def lost(self, address: Address, soon: bool) -> None:
        """A connection is gone; ``soon`` when it had hardly been there, so that its server may be no good."""
        self._open[address] -= 1
        if soon or not self._open[address]:
            self.failed(address)

    def failed(self, address: Address) -> None:
        """No connection came about, or none is left: the next one, unless another connection has gone on already."""
        if address == self.current:
            self._position = (self._position + 1) % len(self._addresses)


def shuffled(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """The addresses in an order of this client's own, so that clients with one URL spread over the servers."""
    return tuple(sorted(addresses, key=lambda _: random_bytes(8)))


def trial(connect_timeout: float, servers: int) -> float:
    """Seconds that connecting to one of several servers may take: one that does not answer must not use up the time."""
    return min(connect_timeout, max(_SHORTEST_TRIAL, connect_timeout / servers))
