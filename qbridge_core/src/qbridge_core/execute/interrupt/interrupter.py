"""Raises HandlerTimeout in threads whose handlers run too long.

An exception can be raised in another thread, but not anywhere: in the middle of a library it would leave the library's
locks held, and with the lock of a log handler every thread that logs would hang. So it is raised when control is next
in code of the handler's own (``owncode``), at a place where nothing is being cleaned up (``safepoints``). One thread,
which lives only as long as something is late, sees to that.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol

from qbridge_core.execute.interrupt.late import Late
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.endurance import Endurance
from qbridge_core.runtime.frames import undisturbed

if sys.version_info >= (3, 12):
    from qbridge_core.execute.interrupt.monitoring import Monitor as _Way
else:
    from qbridge_core.execute.interrupt.sampling import Sampler as _Way

_FIRST_TIME: Final = 1.0
"""Seconds in which a late thread is looked at all the time; later only when it has moved since the last look."""
_MOVING_TIME: Final = 0.2
_BUSY_TIME: Final = 10.0
"""Seconds of being looked at after which a thread is given up: it stays in a library, and the looks cost others."""
_QUICK: Final = 0.002
_SLOW: Final = 0.1
_NAME: Final = "the thread that interrupts late handlers"


class Way(Protocol):
    """How an exception gets into another thread."""

    def look(self, targets: Collection[Late], frames: Mapping[int, FrameType]) -> None:
        """Raise in these threads, now or when they get to where it can be done."""
        ...

    def rest(self) -> None:
        """Raise nothing until the next look."""
        ...


@dataclass(slots=True)
class _Case:
    """What is known of a late thread: where it was, until when it is looked at, and for how long it was."""

    target: Late
    active_until: float
    position: tuple[int, int] = (0, 0)
    spent: float = 0.0


class Interrupter:
    """Interrupts late threads. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: dict[int, Late] = {}
        self._cases: dict[int, _Case] = {}
        self._way: Way = _Way(self._late)
        self._changed = threading.Event()
        self._is_running = False
        self._endurance = Endurance(_NAME)

    def interrupt(self, target: Late) -> None:
        """Raise HandlerTimeout in a thread, once, when control is in its handler's own code; never when that is not."""
        with self._lock:
            self._cases[target.ident] = _Case(target, monotonic() + _FIRST_TIME)
            self._late[target.ident] = target
            self._changed.set()
            if self._is_running:
                return
            try:
                threading.Thread(target=self._run, name="qbridge-interrupter", daemon=True).start()
            except RuntimeError:  # the system has no thread left
                self._late.clear()
                self._cases.clear()
            else:
                self._is_running = True

    def forget(self, ident: int) -> None:
        """A thread ends; its identifier may soon be another one's."""
        if ident in self._cases:
            with self._lock:
                self._late.pop(ident, None)
                self._cases.pop(ident, None)

    def begin_anew(self) -> None:
        """Forget everything, in a forked process: it has one thread only, and no lock may stay held in it."""
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._endurance = Endurance(_NAME)
        self._is_running = False
        self._late.clear()
        self._cases.clear()
        self._way.rest()

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._changed.wait(pause)
            self._changed.clear()
            with self._lock:
                self._drop_done()
                if not self._cases:
                    self._is_running = False
                    with self._endurance:
                        self._way.rest()
                    return
                since, pause = pause, _SLOW  # if the look fails
                with self._endurance:
                    pause = self._look(since)

    def _look(self, since: float) -> float:
        """Look at the threads that could take it; return the pause until the next look."""
        now = monotonic()
        with undisturbed:
            frames = sys._current_frames()
        active = [case.target for case in self._cases.values() if _is_active(case, frames, now, since)]
        if not active:
            self._way.rest()
            return _SLOW
        self._way.look(active, frames)
        return _QUICK

    def _drop_done(self) -> None:
        for ident, case in list(self._cases.items()):
            if ident not in self._late or case.spent > _BUSY_TIME:
                self._late.pop(ident, None)
                del self._cases[ident]


def _is_active(case: _Case, frames: Mapping[int, FrameType], now: float, since: float) -> bool:
    frame = frames.get(case.target.ident)
    if frame is None:
        return False
    position = (id(frame), frame.f_lasti)
    if position != case.position:
        case.position = position
        case.active_until = max(case.active_until, now + _MOVING_TIME)
    if now > case.active_until:
        return False
    case.spent += since
    return True


interrupter: Final = Interrupter()
"""The one of this process: a handler's code may be shared by several managers."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=interrupter.begin_anew)
