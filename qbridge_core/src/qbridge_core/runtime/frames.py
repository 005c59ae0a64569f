"""Looks at the stacks of other threads, which Python 3.11 does not do safely by itself.

There each allocation may start the garbage collector, that of a frame object too. It calls whatever wants to
know of an object's end, and lets other threads run. In the middle of ``sys._current_frames`` that can lock the whole
process up (python/cpython#106883, mended in 3.11.9). In the middle of ``f_back`` or ``f_locals`` the other thread may
leave the frame that is being looked at, and the process crashes. From 3.12 on the collector runs between two
instructions of Python only, where nothing is looked at half.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import Final


class Undisturbed:
    """Keeps the garbage collector from starting by itself in a ``with`` block, which should be short. Thread-safe."""

    def __init__(self) -> None:
        self._was_enabled = False
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, kind: object, exc: BaseException | None, frames: TracebackType | None) -> None:
        self._restore()
        self._lock.release()

    def begin_anew(self) -> None:
        """In a forked process, where the thread that is in the block does not exist."""
        self._restore()
        self._lock = threading.Lock()

    def _restore(self) -> None:
        if self._was_enabled:
            self._was_enabled = False
            gc.enable()


undisturbed: Final = Undisturbed() if sys.version_info < (3, 12) else contextlib.nullcontext()
"""Enter it wherever frames of another thread are asked for, or asked for something."""

if isinstance(undisturbed, Undisturbed) and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=undisturbed.begin_anew)


def frame_of(thread: int | None) -> FrameType | None:
    """Where a thread is, by its identifier; None for one that has ended or not begun."""
    with undisturbed:
        return sys._current_frames().get(thread or 0)


def frames_on(stack: FrameType) -> list[tuple[FrameType, int]]:
    """The frames on a stack and their lines, the innermost first."""
    with undisturbed:
        return list(traceback.walk_stack(stack))


def calls(stack: FrameType) -> traceback.StackSummary:
    """The calls on a stack, the outermost first, as ``traceback.extract_stack`` gives them."""
    summary = traceback.StackSummary.extract(frames_on(stack))
    summary.reverse()
    return summary
