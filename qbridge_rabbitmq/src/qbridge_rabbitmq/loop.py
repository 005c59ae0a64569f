"""The I/O thread: runs pika's event loop, and lets other threads hand it work cheaply.

pika's connections are not thread-safe: all of their methods are called in this thread only.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from pika.adapters.select_connection import IOLoop

from qbridge_core.logs import logger

_log: Final = logger("qbridge.rabbitmq")
_GATHER: Final = 0.002
_PIKA_LOGGERS: Final = (
    "pika.adapters.base_connection",
    "pika.adapters.blocking_connection",
    "pika.adapters.select_connection",
    "pika.adapters.utils.connection_workflow",
    "pika.adapters.utils.io_services_utils",
    "pika.adapters.utils.selector_ioloop_adapter",
    "pika.callback",
    "pika.channel",
    "pika.connection",
    "pika.heartbeat",
)
_here: Final = threading.local()


class IOThread:
    """A daemon thread with pika's event loop. ``post`` and ``wake`` may be called from any thread.

    It holds its thread instead of being one: the names of ``threading.Thread`` differ from release to release.

    Args:
        flush: called in this thread after each :meth:`wake`, to send what others have gathered; returns whether there
            was anything.
        on_crash: called in this thread after pika's loop broke, before it starts again.
    """

    def __init__(self, flush: Callable[[], bool], on_crash: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=self._run, name="qbridge-rabbitmq", daemon=True)
        self.ioloop = IOLoop()
        self._flush = flush
        self._on_crash = on_crash
        self._posted: deque[Callable[[], None]] = deque()
        self._awake = False
        self._due = False
        self._ended = False

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread call this, soon and after what was posted before."""
        self._posted.append(call)
        self.wake()

    def wake(self) -> None:
        """Have the thread run what was posted and flush. Costs next to nothing when it was woken already."""
        # A wake-up is a system call and a context switch. The flag is cleared before the work is taken, so what is
        # appended after the clearing wakes again and nothing is left behind.
        if not self._awake:
            self._awake = True
            self.ioloop.add_callback_threadsafe(self._work)
        if self._ended:
            self._work()

    def wake_soon(self) -> None:
        """Have the thread flush within some milliseconds; at once if it has not done so for a while.

        Where many threads finish short tasks, each flush then serves many of them.
        """
        if not self._due or self._ended:
            self.wake()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """In this thread only: call something after a pause."""
        self.ioloop.call_later(seconds, lambda: _guarded(call))

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

    def stop(self) -> None:
        """In this thread only: end it."""
        self.ioloop.stop()

    def join(self, timeout: float) -> None:
        """Wait until the thread has ended, so many seconds at most."""
        self._thread.join(timeout)

    def _run(self) -> None:
        """Run the loop until it is stopped; then what is still posted, so that nobody waits for it in vain."""
        _keep_pika_quiet()
        while True:
            try:
                self.ioloop.start()
                break
            except Exception:  # noqa: BLE001 - without the loop the client would be alive and silent
                _log.exception("the I/O loop broke; it starts again")
                self._due = False  # the timer may have been lost
                _guarded(self._on_crash)
        self._ended = True
        self._work()
        self.ioloop.close()

    def _work(self) -> None:
        self._awake = False
        posted = self._posted
        for _ in range(len(posted)):
            try:
                call = posted.popleft()
            except IndexError:
                break  # after the end of this thread several others may be here
            _guarded(call)
        if self._flushed() and not self._due and not self._ended:
            self._due = True
            self.ioloop.call_later(_GATHER, self._flush_again)
        if posted:
            self.wake()

    def _flush_again(self) -> None:
        # Cleared before the flush: whoever has something after it wakes this thread.
        self._due = False
        self._work()

    def _flushed(self) -> bool:
        try:
            return self._flush()
        except Exception:  # noqa: BLE001 - as in _guarded
            _log.exception("an error in the I/O thread")
            return False


def _guarded(call: Callable[[], None]) -> None:
    """An error in one call must not end the loop, which all others need."""
    try:
        call()
    except Exception:  # noqa: BLE001 - whatever it is, the loop goes on
        _log.exception("an error in the I/O thread")


def _from_elsewhere(record: logging.LogRecord) -> bool:
    del record
    return not getattr(_here, "is_io_thread", False)


def _keep_pika_quiet() -> None:
    """Drop what pika logs in this thread and others like it.

    It reports each lost connection in several errors with tracebacks; this package reports it once, in one line. Other
    users of pika in the process are not affected.
    """
    _here.is_io_thread = True
    for name in _PIKA_LOGGERS:
        logging.getLogger(name).addFilter(_from_elsewhere)  # adding it twice does nothing
