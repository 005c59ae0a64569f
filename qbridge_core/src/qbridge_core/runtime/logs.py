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
import contextlib
import contextvars
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.runtime.clock import monotonic

if TYPE_CHECKING:
    import asyncio

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
_Extra = Mapping[str, Any] | None
_CAPACITY: Final = 10_000
# Records that keep a task's payload alive, by their context or by the frames of an exception, may not be so many.
_HEAVY: Final = 100
_LAST_WORDS: Final = 0.5
_COMPLAIN_EVERY: Final = 60.0
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})
_BUILTIN_TEXTS: Final = (BaseException.__str__, OSError.__str__)
# The attributes themselves: a subclass may have put properties in front of them.
_ARGS: Final[Any] = vars(BaseException)["args"].__get__
_FILENAME: Final[Any] = vars(OSError)["filename"].__get__
_FILENAME2: Final[Any] = vars(OSError)["filename2"].__get__
_DROPPED: Final = "%d log records were dropped: logging was too slow, or blocked"


def logger(name: str) -> QueuedLogger:
    """The logger of this name; ``logging`` decides as always what becomes of its records."""
    return QueuedLogger(name)


def flush(timeout: float = _LAST_WORDS) -> bool:
    """Wait until ``logging`` has handled what was logged so far, at most so many seconds; True when it has."""
    return _writer.flush(timeout)


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
        entry = _Entry(
            self._target, level, message, args, _exc_info(exc_info), extra or {},
            frame.f_code, frame.f_lineno, time.time(), threading.get_ident(), thread.name, _task_name(),
        )  # fmt: skip
        _writer.put(entry)


@dataclass(slots=True)
class _Entry:
    """What somebody has to say. ``context`` is None when too much is waiting to keep contexts alive."""

    target: logging.Logger
    level: int
    message: str
    args: tuple[object, ...]
    exc_info: _ExcInfo | None
    extra: Mapping[str, Any]
    code: CodeType
    line: int
    created: float
    thread: int
    thread_name: str
    task_name: str | None
    context: contextvars.Context | None = None

    def lighten(self) -> None:
        """Let go of what keeps a payload alive."""
        if self.exc_info is not None:
            self.message += " (%s, without its traceback: too many log records wait)"
            self.args = (*self.args, _exception_now(self.exc_info[1]))
            self.exc_info = None
        self.args = tuple(_exception_now(arg) if isinstance(arg, BaseException) else arg for arg in self.args)


class _Writer:
    """The queue, and the thread that empties it into ``logging``."""

    def __init__(self) -> None:
        # Its put never waits, and is safe in signal handlers.
        self._queue: queue.SimpleQueue[_Entry | threading.Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._counting = threading.RLock()
        self._dropped = 0
        self._complain_at = 0.0
        self._exiting = False
        self._target: logging.Logger | None = None

    def put(self, entry: _Entry) -> None:
        """Take over what somebody has to say; count it when there is no room."""
        waiting = self._queue.qsize()
        if waiting >= _CAPACITY:
            with self._counting:
                self._dropped += 1
            return
        if waiting < _HEAVY:
            entry.context = contextvars.copy_context()
        else:
            entry.lighten()
        if self._thread is None and not self._start():
            self._write(entry)
        else:
            self._queue.put(entry)

    def flush(self, timeout: float) -> bool:
        """See the function."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout)

    def end(self) -> None:
        """The interpreter is about to exit, and with it the thread."""
        if self.flush(_LAST_WORDS):
            self._thread = None
        else:
            _replace_held_locks(self._target)
        self._exiting = True

    def _start(self) -> bool:
        """True when there is a thread, or somebody is about to start it."""
        if self._exiting:
            return False
        if not self._starting.acquire(blocking=False):
            return True
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="qbridge-log", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:  # the system has no thread left
            return False
        else:
            return True
        finally:
            self._starting.release()

    def _run(self) -> None:
        while True:
            entry = self._queue.get()
            if isinstance(entry, threading.Event):
                entry.set()
            else:
                self._write(entry)
            del entry  # or it would keep a payload until the next one
            if self._dropped and self._queue.qsize() < _HEAVY:
                self._tell_dropped()

    def _write(self, entry: _Entry) -> None:
        """Make the record and have it handled, whatever the program's logging does."""
        self._target = entry.target
        try:
            if entry.context is None:
                _handle(entry, self._complain)
            else:
                entry.context.run(_handle, entry, self._complain)
        except BaseException as exc:  # noqa: BLE001 - a filter or a handler is foreign code
            self._complain("a logging filter or handler", exc)

    def _tell_dropped(self) -> None:
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        _log.warning(_DROPPED, dropped)

    def _complain(self, what: str, exc: BaseException) -> None:
        """Say where it cannot fail that logging itself does, but not for each record."""
        now = monotonic()
        if now < self._complain_at:
            return
        self._complain_at = now + _COMPLAIN_EVERY
        with contextlib.suppress(BaseException):
            sys.stderr.write(f"qbridge: {what} raised {_type_name(exc)}: {_text(exc)}\n")


def _handle(entry: _Entry, complain: Callable[[str, BaseException], None]) -> None:
    target, code = entry.target, entry.code
    parts = (
        target.name, entry.level, code.co_filename, entry.line, escaped(entry.message),
        tuple(map(_shown, entry.args)), entry.exc_info, code.co_name,
    )  # fmt: skip
    try:
        record = target.makeRecord(*parts)
    except BaseException as exc:  # noqa: BLE001 - the program's factory is foreign code
        complain("the LogRecord factory", exc)
        record = logging.LogRecord(*parts)
    record.relativeCreated += (entry.created - record.created) * 1000
    record.created = entry.created
    record.msecs = int(entry.created % 1 * 1000) + 0.0
    record.thread, record.threadName = entry.thread, entry.thread_name
    if sys.version_info >= (3, 12):
        record.taskName = entry.task_name
    if entry.exc_info is not None:
        record.exc_text = _traceback(entry.exc_info)
    for key, value in entry.extra.items():
        record.__dict__[key] = escaped(value) if isinstance(value, str) else value
    target.handle(record)


def _replace_held_locks(target: logging.Logger | None) -> None:
    """Give handlers whose lock is held new ones: ``logging`` waits for each of them, for ever, when a program exits."""
    while target is not None:
        for handler in target.handlers:
            lock = handler.lock
            if lock is not None and lock.acquire(blocking=False):
                lock.release()
            elif lock is not None:
                handler.createLock()
        target = target.parent


def escaped(text: str) -> str:
    """The text in one line, with everything escaped that a terminal or a reader could take for something else."""
    text = str.__str__(text)  # a subclass may run code of its own
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _shown(arg: object) -> object:
    if isinstance(arg, str):
        return escaped(arg)
    return arg if isinstance(arg, int | float) else _text(arg)


def _text(value: object) -> str:
    try:
        return escaped(str(value))
    except BaseException:  # noqa: BLE001 - foreign code
        return f"({_type_name(value)}, whose text cannot be read)"


def _exception_now(exc: BaseException) -> str:
    """The text of an exception, or only its type where reading the text may run foreign code."""
    parts = [*_ARGS(exc)]
    if isinstance(exc, OSError):
        parts += _FILENAME(exc), _FILENAME2(exc)
    simple = type(exc).__str__ in _BUILTIN_TEXTS and all(type(part) in _PLAIN for part in parts)
    return str(exc) if simple else _type_name(exc)


def _type_name(value: object) -> str:
    return str(type.__dict__["__name__"].__get__(type(value)))  # a metaclass may run code of its own


def _traceback(exc_info: _ExcInfo) -> str:
    """The traceback with its lines indented, so that none of a message's can be taken for a record."""
    try:
        text = "".join(traceback.format_exception(*exc_info))
    except BaseException:  # noqa: BLE001 - foreign code
        text = f"({_type_name(exc_info[1])}, whose traceback cannot be read)"
    return "\n".join(f"  {escaped(line)}" for line in text.rstrip("\n").split("\n"))


def _exc_info(given: object) -> _ExcInfo | None:
    if isinstance(given, BaseException):
        return type(given), given, given.__traceback__
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


def _renew() -> None:
    """A forked process has no log thread, and what was logged before the fork is its parent's."""
    global _writer  # noqa: PLW0603 - there is one in each process
    _writer = _Writer()


_writer = _Writer()
_log: Final = logger("qbridge.log")
_asyncio: Final = logger("asyncio")
atexit.register(lambda: _writer.end())  # noqa: PLW0108 - a fork renews it
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
