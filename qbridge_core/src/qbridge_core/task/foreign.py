"""Calls of a user's code that no run's deadline covers: hooks, ``redact`` and backoffs. Such code may hang.

It runs in threads that have other things to do, so those are watched: each call leaves a mark for its time, and the
watch gives up the thread that is in one for too long. Another thread does the rest, without the call that hangs. Who
ends a call, the code itself or the watch, is decided once, so that nothing is done twice by a thread that comes back
late: it ends there.

What is done again from its beginning makes no call again that has returned: a hook is not told a thing twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.worker")
_Result = TypeVar("_Result")

SHORTEST: Final = 1.0
"""Seconds that such a call may take at least, however short the timeout of a task is."""


class GivenUp(BaseException):
    """The watch has given this thread up, and another one does the rest. No ``Exception``: nothing may swallow it."""


class Call:
    """One call of foreign code.

    Attributes:
        name: what is called, for people.
        since: ``monotonic()`` at its beginning.
    """

    __slots__ = ("_right_to_go_on", "name", "since")

    def __init__(self, name: str) -> None:
        self.name = name
        self.since = monotonic()
        self._right_to_go_on = threading.Lock()

    def claim(self) -> bool:
        """Take the right to go on after it; True for the first caller only."""
        return self._right_to_go_on.acquire(blocking=False)


class Step:
    """Something with foreign calls in it that another thread can do again, as long as it has changed nothing.

    Args:
        action: does it.
    """

    __slots__ = ("_action", "_results", "hung")

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._results: dict[object, object] = {}
        self.hung: set[str] = set()
        """The names of the calls that are left out, because they have hung here."""

    def do(self) -> Any:
        """Do it, in the calling thread."""
        return self._action()

    def call(self, key: tuple[str, object], function: Callable[[], _Result], left_out: _Result) -> _Result:
        """The result of a call that is made at most once."""
        if key[0] in self.hung:
            return left_out
        if key not in self._results:
            self._results[key] = function()
        return cast("_Result", self._results[key])


class Watched:
    """What a watched thread is in. Written by that thread, read by the watch.

    Attributes:
        call: the foreign code that runs now, if any does.
        step: what another thread would have to do again; None when nothing is left to be done but to go on.
        is_lost: True when this thread has found out that it was given up.
        thread: its identifier; 0 before it begins.
        name: what the thread is, for people.
        turns: another number than before whenever it has got somewhere.
        waits_until: ``monotonic()`` until which it waits on purpose; written before ``turns``.
    """

    __slots__ = ("call", "is_lost", "name", "step", "thread", "turns", "waits_until")

    def __init__(self, name: str = "a thread that settles tasks") -> None:
        self.name = name
        self.call: Call | None = None
        self.step: Step | None = None
        self.is_lost = False
        self.thread = 0
        self.turns = 0
        self.waits_until = 0.0

    def begin(self) -> None:
        """The calling thread is the one that is watched."""
        _here.watched = self
        self.thread = threading.get_ident()

    def do(self, step: Step) -> Any:
        """Do a step that can be repeated until ``settled`` is called; return what it returns."""
        outer, self.step = self.step, step
        try:
            return step.do()
        finally:
            if not self.is_lost:  # otherwise whoever has given this thread up looks for it
                self.step = outer

    def give_up(self, patience: float) -> bool:
        """Take the right to go on from this thread, if it is in a call that has taken longer than so many seconds."""
        call = self.call
        if call is None or monotonic() - call.since < patience or not call.claim():
            return False
        _log.error(
            "%s has not returned for %.3g s; it is left out, and another thread takes the place of the one that it "
            "holds", call.name, patience,
        )  # fmt: skip
        if self.step is not None:
            self.step.hung.add(call.name)
        return True

    def make(self, name: str, function: Callable[[], _Result]) -> _Result:
        """Call foreign code, which must not raise."""
        call = self.call = Call(name)
        try:
            return function()
        finally:
            self.call = None
            if not call.claim():
                self.is_lost = True
                raise GivenUp


_here: Final = threading.local()


def patience(task_timeout: float) -> float:
    """Seconds that one foreign call may take: as long as the handler itself."""
    return max(SHORTEST, task_timeout)


def settled() -> None:
    """What this thread does must not be done again."""
    watched: Watched | None = getattr(_here, "watched", None)
    if watched is not None:
        watched.step = None


def waits(seconds: float) -> None:
    """The calling thread has got somewhere, and waits for so long: it does not hang."""
    watched: Watched | None = getattr(_here, "watched", None)
    if watched is not None:
        watched.waits_until = monotonic() + seconds
        watched.turns += 1


def call(name: str, argument: object, function: Callable[[], _Result], left_out: _Result) -> _Result:
    """Call foreign code under the watch over the calling thread, where there is one.

    Args:
        name: what it is, for people.
        argument: what tells this call from others of the same name; hashable.
        function: calls it, and never raises.
        left_out: the result when it hangs.
    """
    watched: Watched | None = getattr(_here, "watched", None)
    if watched is None:
        return function()
    if watched.step is None:
        return watched.make(name, function)
    return watched.step.call((name, argument), lambda: watched.make(name, function), left_out)
