"""Raises an exception in a thread when its handler's own code goes on: with ``sys.monitoring``, from Python 3.12 on.

Source: PEP 669. Events are switched on for the code of the late handlers only, and only as long as one is late. They
reach every thread that runs this code; each finds out with one look into a dictionary that it is not meant.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Mapping
from types import CodeType, FrameType
from typing import Any, Final

from qbridge_core.execute.interrupt.late import Late
from qbridge_core.execute.interrupt.safepoints import begins_try, is_safe, one_line_loops, precedes_try, returns
from qbridge_core.task.context import HandlerTimeout

_monitoring: Final[Any] = getattr(sys, "monitoring", None)
_NAME: Final = "qbridge"
# The numbers that no kind of tool is meant to have come first.
_TOOL_IDS: Final = (4, 3, 5, 2, 1, 0)


class Monitor:
    """Watches the own code of late handlers. ``look`` and ``rest`` are for one thread.

    Args:
        late: the late threads by their identifiers; who is raised in is taken out.
    """

    def __init__(self, late: dict[int, Late]) -> None:
        self._late = late
        self._tool: int | None = None
        self._watched: dict[int, CodeType] = {}

    def look(self, targets: Collection[Late], frames: Mapping[int, FrameType]) -> None:
        """Watch the code that these threads are in, from now on."""
        if self._tool is None:
            self._tool = self._taken_tool()
        if self._tool is None:
            return
        # No jumps: what is raised in that event passes the frame's own ``except`` and ``finally`` by (3.12 and 3.13).
        events = _monitoring.events.LINE | _monitoring.events.INSTRUCTION
        for target in targets:
            frame = frames.get(target.ident)
            while frame is not None and frame.f_code is not target.entry:
                if id(frame.f_code) not in self._watched and target.own.includes(frame):
                    self._watched[id(frame.f_code)] = frame.f_code
                    _monitoring.set_local_events(self._tool, frame.f_code, events)
                frame = frame.f_back

    def rest(self) -> None:
        """Watch nothing."""
        tool, self._tool = self._tool, None
        if tool is None:
            return
        for code in self._watched.values():
            _monitoring.set_local_events(tool, code, 0)
        self._watched.clear()
        for event in (_monitoring.events.LINE, _monitoring.events.INSTRUCTION):
            _monitoring.register_callback(tool, event, None)
        _monitoring.free_tool_id(tool)

    def _taken_tool(self) -> int | None:
        """A number that nobody uses; None when debuggers and profilers have them all."""
        for tool in _TOOL_IDS:
            try:
                _monitoring.use_tool_id(tool, _NAME)
            except ValueError:
                continue
            _monitoring.register_callback(tool, _monitoring.events.LINE, self._on_line)
            _monitoring.register_callback(tool, _monitoring.events.INSTRUCTION, self._on_instruction)
            return tool
        return None

    def _on_line(self, code: CodeType, line: int) -> None:
        """In whatever thread runs this code: about to execute this line."""
        del line
        target = self._late.get(threading.get_ident())
        if target is not None:
            frame = sys._getframe(1)
            if frame.f_code is code and not begins_try(frame):
                self._raise_in(target, frame)

    def _on_instruction(self, code: CodeType, offset: int) -> None:
        """The same before each instruction; of interest are the first one of a loop in one line, and those after calls.

        After a call that took too long it is raised in the line of the call, where a ``try`` of the handler sees it.
        """
        target = self._late.get(threading.get_ident())
        if target is not None and (offset in returns(code) or offset in one_line_loops(code)):
            frame = sys._getframe(1)
            if frame.f_code is code and not precedes_try(frame):
                self._raise_in(target, frame)

    def _raise_in(self, target: Late, frame: FrameType) -> None:
        if target.is_in_handler() and is_safe(frame, target.own, target.entry):
            self._late.pop(target.ident, None)
            raise HandlerTimeout
