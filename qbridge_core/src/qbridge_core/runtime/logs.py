"""QBridge's own logging: nothing that a program's logging does ends or blocks the thread that logs.

A program may install a LogRecord factory or a filter that raises, a handler that waits for a slow disk, or leave a
handler's lock held. So a thread of ours only puts down what it has to say; one daemon thread makes the records and
hands them to ``logging``. A record still names the thread, the time and the line that logged, and is made in a copy of
its ``contextvars`` context, so that a factory or filter that calls ``current_task()`` finds the task.

What comes from outside (ids, names of queues, texts of exceptions) cannot forge a line: control characters are escaped,
and the lines of a traceback are indented.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.runtime.logqueue import LAST_WORDS, Entry, LogQueue
from qbridge_core.runtime.logtexts import ExcInfo

if TYPE_CHECKING:
    import asyncio

_Extra = Mapping[str, Any] | None


def logger(name: str) -> QueuedLogger:
    """The logger of this name; ``logging`` decides as always what becomes of its records."""
    return QueuedLogger(name)


def flush(timeout: float = LAST_WORDS) -> bool:
    """Wait until ``logging`` has handled what was logged so far, at most so many seconds; True when it has."""
    return _queue.flush(timeout)


def log_errors_of(loop: asyncio.AbstractEventLoop) -> None:
    """Have asyncio's reports of errors in a loop logged like ours: its own logging is done in the loop's thread."""
    loop.set_exception_handler(_report)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What ``default_exception_handler`` does, but for the texts of foreign objects."""
    del loop
    message = context.get("message") or "Unhandled exception in event loop"
    task = context.get("task", context.get("future"))
    if task is not None and hasattr(task, "get_name"):
        _asyncio.error("%s (task %s)", message, task.get_name(), exc_info=context.get("exception"))
    else:
        _asyncio.error("%s", message, exc_info=context.get("exception"))


class QueuedLogger:
    """Has the methods of ``logging.Logger`` that QBridge uses. They never raise and never wait. Thread-safe.

    Arguments that are neither numbers nor strings are shown as their ``str``, whatever the conversion.
    """

    __slots__ = ("_target", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._target = logging.getLogger(name)

    def isEnabledFor(self, level: int) -> bool:
        """True when a record of this level would be handled."""
        target = self._target
        if target.disabled:
            return False
        try:
            return target._cache[level]  # type: ignore[attr-defined, no-any-return]
        except KeyError:
            return _is_enabled(target, level)

    def debug(self, message: str, *args: object, exc_info: object = None, extra: _Extra = None) -> None:
        """Log at DEBUG."""
        if self.isEnabledFor(logging.DEBUG):
            self._put(logging.DEBUG, message, args, exc_info, extra)

    def info(self, message: str, *args: object, exc_info: object = None, extra: _Extra = None) -> None:
        """Log at INFO."""
        if self.isEnabledFor(logging.INFO):
            self._put(logging.INFO, message, args, exc_info, extra)

    def warning(self, message: str, *args: object, exc_info: object = None, extra: _Extra = None) -> None:
        """Log at WARNING."""
        if self.isEnabledFor(logging.WARNING):
            self._put(logging.WARNING, message, args, exc_info, extra)

    def error(self, message: str, *args: object, exc_info: object = None, extra: _Extra = None) -> None:
        """Log at ERROR."""
        if self.isEnabledFor(logging.ERROR):
            self._put(logging.ERROR, message, args, exc_info, extra)

    def exception(self, message: str, *args: object, exc_info: object = True, extra: _Extra = None) -> None:
        """Log at ERROR, with the exception that is being handled."""
        if self.isEnabledFor(logging.ERROR):
            self._put(logging.ERROR, message, args, exc_info, extra)

    def log(self, level: int, message: str, *args: object, exc_info: object = None, extra: _Extra = None) -> None:
        """Log at this level."""
        if self.isEnabledFor(level):
            self._put(level, message, args, exc_info, extra)

    def _put(self, level: int, message: str, args: tuple[object, ...], exc_info: object, extra: _Extra) -> None:
        frame = sys._getframe(2)
        thread = threading.current_thread()
        entry = Entry(
            self._target, level, message, args, _exc_info(exc_info), extra or {},
            frame.f_code, frame.f_lineno, time.time(), threading.get_ident(), thread.name, _task_name(),
        )  # fmt: skip
        _queue.put(entry)


_traceback_of = BaseException.__dict__["__traceback__"].__get__


def _exc_info(given: object) -> ExcInfo | None:
    if isinstance(given, BaseException):
        return type(given), given, _traceback_of(given)  # whatever the class says when it is asked for an attribute
    if isinstance(given, tuple):
        return given if given[1] is not None else None
    kind, exc, frames = sys.exc_info() if given else (None, None, None)
    return None if kind is None or exc is None else (kind, exc, frames)


def _task_name() -> str | None:
    """The name of the asyncio task that is running here."""
    asyncio = sys.modules.get("asyncio")  # where nobody has imported it, or somebody is about to, no task runs
    running = getattr(asyncio, "_get_running_loop", None)
    loop = None if running is None else running()
    task = None if loop is None or asyncio is None else asyncio.current_task(loop)
    return None if task is None else task.get_name()


def _is_enabled(target: logging.Logger, level: int) -> bool:
    """``Logger.isEnabledFor`` where its cache has no answer, without waiting for its lock, which may be leaked."""
    lock = logging._lock  # type: ignore[attr-defined]
    if lock.acquire(blocking=False):
        try:
            return logging.Logger.isEnabledFor(target, level)
        finally:
            lock.release()
    return target.manager.disable < level and logging.Logger.getEffectiveLevel(target) <= level


def _say_dropped(count: int) -> None:
    _log.warning("%d log records were dropped: logging was too slow, or blocked", count)


def _renew() -> None:
    """A forked process has no log thread, and what was logged before the fork is its parent's."""
    global _queue  # noqa: PLW0603 - there is one in each process
    _queue = LogQueue(_say_dropped)


_queue = LogQueue(_say_dropped)
_log: Final = logger("qbridge.log")
_asyncio: Final = logger("asyncio")
atexit.register(lambda: _queue.end())  # noqa: PLW0108 - a fork renews it
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
