"""The order in which hooks about one task are called, whichever threads call them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qbridge_core.runtime.clock import monotonic

_LONGEST_WAIT: Final = 5.0


class _Telling:
    """The call of a hook: in which thread it is, and whether it is over."""

    __slots__ = ("over", "thread")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.thread = threading.get_ident()


class HookOrder:
    """Has the hooks about one task called in the order of what they tell, whichever threads call them.

    The copy of a message for its next attempt can be received as soon as the broker has it, which is before the hook
    that tells of it has been called. So whoever settles a task *tells* of it until that hook has returned, and whoever
    takes the next attempt waits for that; likewise a timeout for the hook that tells of the start. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._telling: dict[str, list[_Telling]] = {}

    def begin(self, task_id: str) -> _Telling:
        """Something becomes of this task, of which a hook has yet to tell."""
        told = _Telling()
        with self._lock:
            self._telling.setdefault(task_id, []).append(told)
        return told

    def end(self, task_id: str, told: _Telling) -> None:
        """The hook has returned, or is not waited for any more. May be called again."""
        with self._lock:
            others = self._telling.get(task_id, [])
            if told in others:
                others.remove(told)
                if not others:
                    del self._telling[task_id]
        told.over.set()

    def give_up(self, thread: int) -> None:
        """The hooks that this thread calls hang."""
        with self._lock:
            hung = [
                (task_id, told) for task_id, each in self._telling.items() for told in each if told.thread == thread
            ]
        for task_id, told in hung:
            self.end(task_id, told)

    @contextmanager
    def telling(self, task_id: str) -> Iterator[None]:
        """``begin`` and ``end`` around a block."""
        told = self.begin(task_id)
        try:
            yield
        finally:
            self.end(task_id, told)

    def wait(self, task_id: str) -> None:
        """Wait until all is told that has begun by now; at most for some seconds, since a hook may hang."""
        if task_id not in self._telling:
            return
        with self._lock:
            begun = list(self._telling.get(task_id, ()))
        deadline = monotonic() + _LONGEST_WAIT
        for told in begun:
            if not told.over.wait(max(0.0, deadline - monotonic())):
                self.end(task_id, told)  # once is enough


ORDER: Final = HookOrder()
"""One for all managers of the process: the next attempt may run in another one."""
