"""Tells when a function has begun and when a line of it is about to run, in any thread."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType
from typing import Any, Final

from qbridge_core import ConfigurationError

Hit = Callable[[CodeType, int], None]
"""Called with the code and the line, in the thread that is about to run it; what it raises is raised there.

Where a function begins the line is 0, where Python tells that.
"""
_monitoring: Final[Any] = getattr(sys, "monitoring", None)
CAN_BEGIN_LATE: Final = _monitoring is not None
"""Whether threads that run already are watched."""
_NAME: Final = "qbridge-pytest"
_TOOL_IDS: Final = (3, 4, 5, 2, 1, 0)


@contextmanager
def watching(codes: Collection[CodeType], hit: Hit) -> Iterator[None]:
    """Within this block, have ``hit`` called for each line of these functions.

    From Python 3.12 on this goes by ``sys.monitoring`` (PEP 669). Before it goes by ``threading.settrace``, so only in
    threads that begin within the block, and another tracer, such as a debugger or coverage, sees nothing of those.
    """
    if not codes:
        yield
        return
    with _monitored(codes, hit) if _monitoring is not None else _traced(codes, hit):
        yield


@contextmanager
def _monitored(codes: Collection[CodeType], hit: Hit) -> Iterator[None]:
    tool = next((each for each in _TOOL_IDS if _monitoring.get_tool(each) is None), None)
    if tool is None:
        raise ConfigurationError("other tools have taken all places of sys.monitoring, so no line can be watched")
    line, start = _monitoring.events.LINE, _monitoring.events.PY_START
    _monitoring.use_tool_id(tool, _NAME)
    _monitoring.register_callback(tool, line, hit)
    _monitoring.register_callback(tool, start, lambda code, _: hit(code, 0))
    try:
        for code in codes:
            # Without PY_START no LINE is told of a function that is written in one line.
            _monitoring.set_local_events(tool, code, line | start)
        yield
    finally:
        for code in codes:
            _monitoring.set_local_events(tool, code, 0)
        for event in (line, start):
            _monitoring.register_callback(tool, event, None)
        _monitoring.free_tool_id(tool)


@contextmanager
def _traced(codes: Collection[CodeType], hit: Hit) -> Iterator[None]:
    watched = frozenset(codes)
    before = threading.gettrace()

    def on_line(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            try:
                hit(frame.f_code, frame.f_lineno)
            except BaseException:
                # It ends the tracing of this thread, which is `go_on`'s to begin anew, in an event loop's next turn.
                with suppress(RuntimeError):
                    asyncio.get_running_loop().call_soon(go_on)
                raise
        return on_line

    def on_call(frame: FrameType, event: str, _: object) -> Any:
        return on_line if event == "call" and frame.f_code in watched else None

    on_call.begins_anew = True  # type: ignore[attr-defined]
    threading.settrace(on_call)
    try:
        yield
    finally:
        threading.settrace(before)


def go_on() -> None:
    """Watch on in this thread, in which a hit has raised: a tracer that raises is taken away from its thread."""
    tracer = None if CAN_BEGIN_LATE else threading.gettrace()
    if sys.gettrace() is None and hasattr(tracer, "begins_anew"):
        sys.settrace(tracer)
