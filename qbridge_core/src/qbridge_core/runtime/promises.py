"""Futures that somebody else ends, and that end in time in any case."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from qbridge_core.runtime.clock import monotonic

if TYPE_CHECKING:
    from concurrent.futures import Future

_LINGER: Final = 1.0


class Ending(Protocol):
    """What ends once, by a deadline.

    Attributes:
        deadline: when it ends at the latest (monotonic time).
    """

    deadline: float

    def end(self, error: BaseException | None, result: object = None, /) -> None:
        """Tell whoever waits for it; called once, by whoever came first, in any thread."""


class Promise:
    """A future with a deadline; a backend adds what it has to know of the call that it stands for.

    Attributes:
        future: its holder cannot cancel it: the call goes on.
        deadline: when it ends at the latest (monotonic time).
    """

    __slots__ = ("deadline", "future")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.future = kept_future()

    def end(self, error: BaseException | None, result: object = None, /) -> None:
        """End the future."""
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def kept_future() -> Future[Any]:
    """A future that its holder cannot cancel: what it stands for goes on."""
    return _future_class()()


@functools.cache
def _future_class() -> type[Future[Any]]:
    """Made when it is needed, for most producers wait, and what it is derived from takes time to import."""
    from concurrent.futures import Future

    class Kept(Future[Any]):
        """One that cannot be cancelled, from the beginning: to begin it costs as much as to end it."""

        def cancel(self) -> bool:
            return False

    return Kept


P = TypeVar("P", bound=Ending)


class Promises(Generic[P]):
    """Those that have not ended. Each ends once, whoever comes first: who keeps it, or its deadline. Thread-safe.

    Args:
        late: makes the error of one whose time is over; called in a thread that must not be held up.
        name: of that thread, which exists while there are some.
    """

    def __init__(self, late: Callable[[P], BaseException], name: str) -> None:
        self._late = late
        self._name = name
        self._open: dict[P, None] = {}
        self._changed = threading.Condition(threading.Lock())
        self._look_at = math.inf
        self._is_watched = False

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, promise: P) -> bool:
        return promise in self._open

    def add(self, promise: P) -> None:
        """From now on it ends at its deadline. Never waits."""
        self._open[promise] = None
        if promise.deadline < self._look_at:
            self._look_sooner(promise.deadline)

    def keep(self, promise: P, error: BaseException | None = None, result: object = None) -> bool:
        """End it; False when it has ended already. Calls what waits for it, in this thread."""
        if self._open.pop(promise, self) is self:  # of all who come, one gets it
            return False
        promise.end(error, result)
        return True

    def end_all(self, error: Callable[[P], BaseException]) -> None:
        """End those that are left."""
        for promise in list(self._open):
            self.keep(promise, error(promise))

    def _look_sooner(self, at: float) -> None:
        with self._changed:
            if at >= self._look_at:
                return
            self._look_at = at
            if self._is_watched:
                self._changed.notify()
                return
            try:
                threading.Thread(target=self._watch, name=self._name, daemon=True).start()
            except RuntimeError:  # the next one tries it again
                self._look_at = math.inf
            else:
                self._is_watched = True

    def _watch(self) -> None:
        while self._is_due():
            self._end_late(monotonic())

    def _is_due(self) -> bool:
        """Wait until it is time to look; False when there is nothing to look at."""
        with self._changed:
            while (left := self._look_at - monotonic()) > 0:
                self._changed.wait(min(left, _LINGER))
                if not self._open:
                    before, self._look_at = self._look_at, math.inf  # what is added from now on says so itself
                    if not self._open:
                        self._is_watched = False
                        return False
                    self._look_at = before
            self._look_at = math.inf
            return True

    def _end_late(self, now: float) -> None:
        soonest = math.inf
        for promise in list(self._open):
            if promise.deadline <= now:
                self._end(promise)
            else:
                soonest = min(soonest, promise.deadline)
        with self._changed:
            # With none left it lingers: sends that come one by one would start a thread each.
            self._look_at = min(self._look_at, soonest, now + _LINGER if soonest == math.inf else math.inf)

    def _end(self, promise: P) -> None:
        if self._open.pop(promise, self) is self:
            return
        try:
            error = self._late(promise)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must end
            error = exc
        promise.end(error)
