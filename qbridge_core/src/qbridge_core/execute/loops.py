"""Event loops that handlers run on: one with a lifespan has a loop of its own, others share a few.

A thread and three descriptors for each of a thousand managers would be most of what their process takes, and of what
it may take. So the managers of a process whose loops are made alike share a few of them. Each has the threads for
blocking calls to itself, and its coroutines are known by their context, so that its end ends no others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final, Protocol

from qbridge_core.execute.loopthread import LoopThread, tenant
from qbridge_core.execute.threadpool import ThreadPool, serve

if TYPE_CHECKING:
    import asyncio

LoopFactory = Callable[[], "asyncio.AbstractEventLoop"]
_MOST: Final = 4
"""So many loops are made alike in a process; what blocks one of them holds up no more than the part that is there."""


class Tenant(Protocol):
    """Whose coroutines run on a loop.

    Attributes:
        threads: for its blocking calls.
    """

    threads: ThreadPool

    def runs_on(self, loop: LoopThread) -> bool:
        """Whether a coroutine runs there whose result counts. In any thread."""
        ...

    def moved(self) -> None:
        """There is a new loop, and what ran on the old one is to be taken from there. In any thread; must not wait."""
        ...


class Loops:
    """One event loop after the other: when it is blocked another one takes its place. Thread-safe.

    Args:
        make: makes one, which is not started.

    Attributes:
        replaced: how many were replaced.
    """

    def __init__(self, make: Callable[[], LoopThread]) -> None:
        self.replaced = 0
        self._make = make
        self._lock = threading.Lock()
        self._current: LoopThread | None = None
        self._all: list[LoopThread] = []
        self._tenants: dict[Tenant, None] = {}
        self._newest: Tenant | None = None

    def __len__(self) -> int:
        """How many use them."""
        return len(self._tenants)

    def enter(self, one: Tenant) -> None:
        """Use them from now on."""
        with self._lock:
            self._tenants[one] = None
            self._newest = one

    def current(self, one: Tenant) -> LoopThread | None:
        """The loop to run on; None for one that has left.

        Raises:
            RuntimeError: the system has no thread left for one.
            BaseException: whatever making it raises.
        """
        loop = self._current
        if loop is not None and one in self._tenants:  # without the lock, for this is asked for each message
            return loop
        with self._lock:
            if one not in self._tenants:
                return None
            if self._current is None:
                # Not in the context of the task that happens to be the first: the loop would keep it for ever.
                self._current = Context().run(self._started)
            return self._current

    def _started(self) -> LoopThread:
        loop = self._make()
        serve(loop.loop, self._threads)
        self._all.append(loop)
        loop.start()
        return loop

    def replace(self, loop: LoopThread) -> None:
        """Run nothing more on this loop, and have all that ran there taken from it."""
        with self._lock:
            if loop.replaced:
                return
            loop.replace()
            self.replaced += 1
            if self._current is loop:
                self._current = None
            tenants = list(self._tenants)
        for one in tenants:
            one.moved()

    def all(self) -> list[LoopThread]:
        """Those that have not ended."""
        with self._lock:
            self._all = [loop for loop in self._all if loop.is_alive]
            return self._all

    def are_needed(self, loop: LoopThread) -> bool:
        """Whether a coroutine runs there whose result counts."""
        return any(one.runs_on(loop) for one in list(self._tenants))

    def leave(self, one: Tenant) -> None:
        """Cancel what runs for this one; the last one ends the loop. One that does not answer is left behind."""
        with self._lock:
            self._tenants.pop(one, None)
            loop, is_last = self._current, not self._tenants
            if is_last:
                self._current = None
        if loop is None:
            return
        if is_last:
            loop.close()
        else:
            loop.cancel(one)

    def _threads(self) -> ThreadPool:
        """In the loop: for its blocking calls. What is nobody's, such as a lifespan, has those of whoever is there."""
        one = tenant.get() or next(iter(list(self._tenants)), self._newest)
        assert one is not None  # noqa: S101 - without anybody there is no loop
        return one.threads


class _Shared:
    """The loops that are shared in this process, by what makes them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loops: list[tuple[LoopFactory | None, Loops]] = []

    def enter(self, one: Tenant, factory: LoopFactory | None, make: Callable[[], LoopThread]) -> Loops:
        """Those that the fewest use, or new ones as long as there are few."""
        with self._lock:
            self._loops = [(each, loops) for each, loops in self._loops if len(loops)]
            alike = [loops for each, loops in self._loops if each is factory]
            if len(alike) < _MOST:
                chosen = Loops(make)
                self._loops.append((factory, chosen))
            else:
                chosen = min(alike, key=len)
            chosen.enter(one)
            return chosen


shared: Final = _Shared()
"""Of this process."""

if hasattr(os, "register_at_fork"):
    # A child has none of the threads, and the lock may be held by one that it has not.
    os.register_at_fork(after_in_child=shared.__init__)  # type: ignore[misc]
