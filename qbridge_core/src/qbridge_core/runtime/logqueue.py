"""The queue of what is to be logged, and the one thread that makes records of it and hands them to ``logging``."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logtexts import ExcInfo, escaped, exception_now, shown, text_of, traceback_of, type_name

CAPACITY: Final = 10_000
# Records that keep a task's payload alive, by their context or by the frames of an exception, may not be so many.
_HEAVY: Final = 100
LAST_WORDS: Final = 0.5
_COMPLAIN_EVERY: Final = 60.0


@dataclass(slots=True)
class Entry:
    """What somebody has to say. ``context`` is None when too much is waiting to keep contexts alive."""

    target: logging.Logger
    level: int
    message: str
    args: tuple[object, ...]
    exc_info: ExcInfo | None
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
            self.args = (*self.args, exception_now(self.exc_info[1]))
            self.exc_info = None
        self.args = tuple(exception_now(arg) if isinstance(arg, BaseException) else arg for arg in self.args)


class LogQueue:
    """The queue, and the thread that empties it into ``logging``. Thread-safe.

    Args:
        say_dropped: logs how many entries there was no room for.
    """

    def __init__(self, say_dropped: Callable[[int], None]) -> None:
        self._say_dropped = say_dropped
        # Its put never waits, and is safe in signal handlers.
        self._queue: queue.SimpleQueue[Entry | threading.Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._counting = threading.RLock()
        self._dropped = 0
        self._complain_at = 0.0
        self._exiting = False
        self._target: logging.Logger | None = None

    def put(self, entry: Entry) -> None:
        """Take over what somebody has to say; count it when there is no room."""
        waiting = self._queue.qsize()
        if waiting >= CAPACITY:
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
        if self.flush(LAST_WORDS):
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

    def _write(self, entry: Entry) -> None:
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
        try:
            self._say_dropped(dropped)
        except BaseException as exc:  # noqa: BLE001 - without this thread nobody would log any more
            self._complain("the count of lost records", exc)

    def _complain(self, what: str, exc: BaseException) -> None:
        """Say where it cannot fail that logging itself does, but not for each record."""
        now = monotonic()
        if now < self._complain_at:
            return
        self._complain_at = now + _COMPLAIN_EVERY
        with contextlib.suppress(BaseException):
            sys.stderr.write(f"qbridge: {what} raised {type_name(exc)}: {text_of(exc)}\n")


def _handle(entry: Entry, complain: Callable[[str, BaseException], None]) -> None:
    target, code = entry.target, entry.code
    parts = (
        target.name, entry.level, code.co_filename, entry.line, escaped(entry.message),
        tuple(map(shown, entry.args)), entry.exc_info, code.co_name,
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
        record.exc_text = traceback_of(entry.exc_info)
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
