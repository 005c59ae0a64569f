"""Describes what went wrong in a run, in texts, so that no exception keeps its frames (and the payload) alive."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import FrameType, TracebackType
from typing import Final

from qbridge_core.contract.dead_letter import Reason
from qbridge_core.contract.headers import MAX_EXCEPTION_MESSAGE_CHARS, MAX_TRACEBACK_CHARS
from qbridge_core.runtime.frames import calls, frames_on
from qbridge_core.runtime.logs import logger
from qbridge_core.task import foreign

_log: Final = logger("qbridge.worker")
# Texts are cut to their final length only when they have been redacted: half a secret may look like none.
_ROOM: Final = 4
_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__))
_EXECUTOR: Final = os.path.join(_PACKAGE, "execute", "executor.py")
# The functions that handlers are called through. The handler itself may call anything else of this package.
_CALLERS: Final = {
    (os.path.join(_PACKAGE, *path.split("/")), name)
    for path, name in (
        ("work/worker.py", "_perform"),
        ("execute/executor.py", "__call__"),
        ("work/coroutinepool.py", "_perform"),
        ("execute/processes/program.py", "_handle"),
        ("execute/processes/program.py", "_await"),
        ("execute/processes/program.py", "call"),
        ("execute/processes/childlifespan.py", "_make"),
    )
}
_UNREDACTED: Final = "(left out, because it could not be redacted)"
_UNREADABLE: Final = "(the exception's text could not be read)"
Owns = Callable[[FrameType], bool]
"""Tells whether a frame is in the handler's own code."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a dead letter says of a failed run; :class:`~qbridge_core.contract.dead_letter.Failure` has the rest.

    ``place`` is that of :class:`~qbridge_core.contract.history.Attempt`.
    """

    reason: Reason
    exception_type: str = ""
    message: str = ""
    traceback: str = ""
    place: str = ""

    @classmethod
    def from_exception(cls, reason: Reason, exc: BaseException, owns: Owns | None = None) -> Explanation:
        """Describe an exception, starting below the frames of QBridge that called the handler.

        Args:
            reason: what kind of failure.
            exc: the exception.
            owns: tells the handler's own code; without it no place is named.
        """
        try:
            kind = type(exc)
            name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            frames = _below_ours(exc.__traceback__)
            text = "".join(traceback.format_exception(kind, exc, frames)) if frames else ""
            place = _place(reversed(list(traceback.walk_tb(frames))), owns)
            return cls(reason, _plain(name), _message(exc), _plain(text)[-_ROOM * MAX_TRACEBACK_CHARS :], place)
        except BaseException:  # noqa: BLE001 - every access may run foreign code, and the failure must be recorded
            return cls(reason, "", _UNREADABLE)

    @classmethod
    def timed_out(cls, timeout: float, stack: FrameType | None, owns: Owns | None = None) -> Explanation:
        """Describe a timeout by where the handler was when its time was over."""
        text = "".join(_frames_of_handler(stack)) if stack else ""
        place = _place(frames_on(stack), owns) if stack else ""
        return cls(Reason.TIMED_OUT, "TimeoutError", f"the handler ran longer than {timeout:g} s", text, place)

    def redacted(self, redact: Callable[[str], str] | None) -> Explanation:
        """The same with its texts as ``redact`` wants them shown."""
        if redact is None:
            return self
        return replace(self, message=_redacted(redact, self.message), traceback=_redacted(redact, self.traceback))


def _redacted(redact: Callable[[str], str], text: str) -> str:
    return foreign.call("redact", text, lambda: _shown(redact, text), _UNREDACTED) if text else text


def _shown(redact: Callable[[str], str], text: str) -> str:
    try:
        shown = redact(text)
        if isinstance(shown, str):
            return _plain(shown)
        _log.error("redact returned a %s instead of a string; the text is left out", type(shown).__name__)
    except BaseException as exc:  # noqa: BLE001 - foreign code, and its error may quote what must not be seen
        _log.error("redact raised %s; the text is left out", type(exc).__name__)
    return _UNREDACTED


def _below_ours(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins with the handler: without the worker, and what it calls handlers through."""
    handler = here = frames
    while here is not None:
        if (here.tb_frame.f_code.co_filename, here.tb_frame.f_code.co_name) in _CALLERS:
            handler = here.tb_next
        here = here.tb_next
    while handler is not None and handler.tb_frame.f_code.co_filename == _EXECUTOR:  # what it returned was refused
        handler = handler.tb_next
    return handler


def _place(frames: Iterable[tuple[FrameType, int]], owns: Owns | None) -> str:
    """The first of these frames and lines that is in the handler's own code; "" when none is."""
    if owns is None:
        return ""
    for frame, line in frames:
        if owns(frame):
            return f"{_file(frame)}:{line} {frame.f_code.co_qualname}"
    return ""


def _file(frame: FrameType) -> str:
    """The file of a frame as its module is called: the same on each host, wherever the program is installed."""
    parts = frame.f_code.co_filename.replace(os.sep, "/").split("/")
    depth = str(frame.f_globals.get("__name__")).count(".") + 1 + (parts[-1] == "__init__.py")
    return "/".join(parts[-depth:])


def _message(exc: BaseException) -> str:
    try:
        return _plain(str(exc))[: _ROOM * MAX_EXCEPTION_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001 - as above; type and traceback may still be readable
        return _UNREADABLE


def _plain(text: str) -> str:
    """The text itself, where a subclass of str would run code of its own."""
    return str.__str__(text)


def _frames_of_handler(stack: FrameType) -> list[str]:
    """The stack from the handler on, or all of it when the handler is not on it any more."""
    frames = calls(stack)
    callers = [position for position, frame in enumerate(frames) if (frame.filename, frame.name) in _CALLERS]
    return traceback.format_list(frames[callers[-1] + 1 :] if callers and callers[-1] + 1 < len(frames) else frames)
