"""Describes what went wrong in a run, in texts, so that no exception keeps its frames (and the payload) alive."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from types import FrameType
from typing import Final

from qbridge_core.message import MAX_EXCEPTION_MESSAGE_CHARS, Reason

_UNREADABLE: Final = "(the exception's text could not be read)"


@dataclass(frozen=True, slots=True)
class Problem:
    """The explanation of a failed run."""

    reason: Reason
    exception_type: str = ""
    message: str = ""
    traceback: str = ""

    @classmethod
    def from_exception(cls, reason: Reason, exc: BaseException) -> Problem:
        """Describe an exception, starting below the frame of QBridge that called the handler."""
        try:
            kind = type(exc)
            name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            frames = exc.__traceback__.tb_next if exc.__traceback__ else None
            text = "".join(traceback.format_exception(kind, exc, frames)) if frames else ""
            return cls(reason, _plain(name), _message(exc), _plain(text))
        except BaseException:  # noqa: BLE001 - every access may run foreign code, and the failure must be recorded
            return cls(reason, "", _UNREADABLE)

    @classmethod
    def timed_out(cls, timeout: float, stack: FrameType | None) -> Problem:
        """Describe a timeout by where the handler was when its time was over."""
        text = "".join(_frames_of_handler(stack)) if stack else ""
        return cls(Reason.TIMED_OUT, "TimeoutError", f"the handler ran longer than {timeout:g} s", text)


def _message(exc: BaseException) -> str:
    try:
        return _plain(str(exc))[:MAX_EXCEPTION_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001 - as above; type and traceback may still be readable
        return _UNREADABLE


def _plain(text: str) -> str:
    """The text itself, where a subclass of str would run code of its own."""
    return str.__str__(text)


def _frames_of_handler(stack: FrameType) -> list[str]:
    """The stack below the last frame of QBridge, or all of it when the handler is not on it any more."""
    frames = traceback.extract_stack(stack)
    package = os.path.dirname(__file__)
    ours = [position for position, frame in enumerate(frames) if os.path.dirname(frame.filename) == package]
    return traceback.format_list(frames[ours[-1] + 1 :] if ours and ours[-1] + 1 < len(frames) else frames)
