"""Which of a client's hash slots is at which master of the cluster, as far as is known; threads follow them there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from qbridge_redis.connection.options import Address
from qbridge_redis.connection.pool import ConnectionPool
from qbridge_redis.master import Master
from qbridge_redis.node import Node
from qbridge_redis.server.cluster import ClusterRoute
from qbridge_redis.state.context import Signal


class Bell:
    """Tells the thread that acknowledges where a slot is now."""

    def __init__(self) -> None:
        self._event: Signal = threading.Event()
        self._is_placed = False

    def is_set(self) -> bool:
        """Whether that one knows."""
        return self._event.is_set()

    def set(self) -> None:
        """Tell it."""
        self._event.set()

    def move(self, event: Signal) -> None:
        """It is another one from now on, which has to know what the one before has been told, and may not have done."""
        before, self._event = self._event, event
        if self._is_placed or before.is_set():
            event.set()
        self._is_placed = True


class Slot:
    """A hash slot.

    Attributes:
        node: what the client has for it.
        route: the way to its master.
        bell: of its acknowledgements.
        master: where it is, as far as is known.
    """

    def __init__(self, route: ClusterRoute, bell: Bell, node: Node) -> None:
        self.node: Final = node
        self.route: Final = route
        self.bell: Final = bell
        self.master: Master | None = None

    def poke(self) -> None:
        """Have its master look at its delayed messages."""
        if self.master is not None:
            self.master.maintenance.poke()


class Placement:
    """The slots that a client uses, and the masters where they are. Thread-safe.

    Args:
        make_slot: makes what there is for a slot.
        make_master: makes what there is for a master.
        moved: called when slots are elsewhere than before.
        closing: set when the client is about to disconnect: nothing is started or rearranged any more.
    """

    def __init__(
        self,
        make_slot: Callable[[int], Slot],
        make_master: Callable[[Address], Master],
        moved: Callable[[], None],
        closing: threading.Event,
    ) -> None:
        self._make_slot = make_slot
        self._make_master = make_master
        self._moved = moved
        self._closing = closing
        self._slots: dict[int, Slot] = {}
        self._masters: dict[Address, Master] = {}
        self._lock = threading.Lock()

    def slot(self, number: int) -> Slot:
        """What there is for a slot, made when it is first asked for."""
        slot = self._slots.get(number)
        return self._add(number) if slot is None else slot

    def slots(self) -> list[Slot]:
        """All of them. Takes no lock."""
        return list(self._slots.copy().values())

    def master_at(self, address: Address) -> Master:
        """What there is for a master, made when it is first asked for."""
        with self._lock:
            return self._master_at(address)

    def masters(self) -> list[Master]:
        """All of them. Takes no lock."""
        return list(self._masters.copy().values())

    def count_masters(self) -> int:
        """How many there are. Takes no lock."""
        return len(self._masters)

    def everything(self) -> tuple[list[Master], list[Slot]]:
        """All masters and all slots, also those that somebody is about to add."""
        with self._lock:
            return list(self._masters.values()), list(self._slots.values())

    def pool_at(self, address: Address) -> ConnectionPool:
        """The connections to a master."""
        return self.master_at(address).server.pool

    def known_pool(self, address: Address) -> ConnectionPool | None:
        """The same, where there is something for that master. Takes no lock."""
        master = self._masters.get(address)
        return None if master is None else master.server.pool

    def arrange(self) -> None:
        """The nodes of the cluster have said which slot is where: have each looked after there."""
        if self._closing.is_set():
            return
        with self._lock:
            moved = [self._place(slot) for slot in self._slots.values()]
            left = [address for address, master in self._masters.items() if not master.nodes]
            ended = [self._masters.pop(address) for address in left]
        for master in ended:
            master.end()
        if any(moved):
            self._moved()

    def _add(self, number: int) -> Slot:
        with self._lock:
            if number not in self._slots:
                slot = self._make_slot(number)
                self._place(slot)
                self._slots[number] = slot
            return self._slots[number]

    def _place(self, slot: Slot) -> bool:
        """Have a slot looked after where it is; return whether that is elsewhere than before. With the lock held."""
        slot.route.follow()
        address, _ = slot.route.place
        if address is None or (master := self._master_at(address)) is slot.master:
            return False
        before, slot.master = slot.master, master
        master.nodes = (*master.nodes, slot.node)
        slot.bell.move(master.server.acks_waiting)
        if before is None:
            return False
        before.nodes = tuple(node for node in before.nodes if node is not slot.node)
        master.maintenance.renew_soon()
        return True

    def _master_at(self, address: Address) -> Master:
        """The same as ``master_at``. With the lock held."""
        if address not in self._masters:
            master = self._make_master(address)
            if not self._closing.is_set():
                master.start()
            self._masters[address] = master
        return self._masters[address]
