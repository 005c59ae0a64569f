"""Raises an exception in a thread when its handler's own code goes on: by looking at its stack, for Python 3.11.

Such an exception (``PyThreadState_SetAsyncExc``) is raised when the thread checks next whether something is due: after
a call of a C function, at the end of a loop's turn, at the start of a function. It is sent only to a thread that stands
at such a place in the handler's own code. So it is raised there, before anything else is called.
"""

from __future__ import annotations

import ctypes
import dis
import operator
import sys
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import compress, repeat
from types import FrameType
from typing import Final

from qbridge_core.execute.interrupt.late import Late
from qbridge_core.execute.interrupt.safepoints import backward_jumps, have_one_guard, is_safe, precedes_try
from qbridge_core.runtime.frames import undisturbed
from qbridge_core.task.context import HandlerTimeout

_SEND: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_POSITION: Final = operator.attrgetter("f_lasti")
_EXCEPTION: Final = ctypes.py_object(HandlerTimeout)
_CHECKED: Final = frozenset(
    code
    for name, code in dis.opmap.items()
    if name.startswith(("CALL", "PRECALL", "RESUME")) or ("JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name)
)


class Sampler:
    """Sends the exception to late threads that can take it. For one thread.

    Args:
        late: the late threads by their identifiers; who is raised in is taken out.
    """

    def __init__(self, late: dict[int, Late]) -> None:
        self._late = late

    def look(self, targets: Collection[Late], frames: Mapping[int, FrameType]) -> None:
        """Raise in these threads as far as it can be done now."""
        for target in targets:
            frame = frames.get(target.ident)
            if frame is None or not target.is_in_handler():
                continue
            position = frame.f_lasti
            with undisturbed:
                can_take_it = _can_take_it(frame, position, target)
            if can_take_it:
                self._send(target, frame, position)

    def rest(self) -> None:
        """Nothing is left behind."""

    def _send(self, target: Late, frame: FrameType, position: int) -> None:
        """Raise in the thread if it still stands there.

        All of it is one call into C, so that no other thread runs between the look and the sending.
        """
        innermost = map(operator.getitem, map(operator.call, (sys._current_frames,)), (target.ident,))
        is_innermost = map(operator.is_, innermost, (frame,))
        is_at = map(operator.eq, map(_POSITION, (frame,)), (position,))
        still_there = map(operator.and_, is_innermost, is_at)
        sent = map(_SEND, compress((ctypes.c_ulong(target.ident),), still_there), repeat(_EXCEPTION))
        with undisturbed, suppress(KeyError):  # the thread has ended
            if deque(sent, maxlen=1):
                self._late.pop(target.ident, None)


def _can_take_it(frame: FrameType, position: int, target: Late) -> bool:
    code = frame.f_code
    if code.co_code[position] not in _CHECKED:
        return False
    # After a jump the exception is looked up for the instruction in front of the one that the jump leads to.
    jumps_to = backward_jumps(code).get(position)
    if jumps_to is not None and not have_one_guard(code, position, jumps_to - 1):
        return False
    return is_safe(frame, target.own, target.entry) and not precedes_try(frame)
