"""The I/O thread: runs pika's event loop, and lets other threads hand it work cheaply.

pika's connections are not thread-safe: all of their methods are called in this thread only.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pika.adapters.select_connection import IOLoop

from qbridge_core.backend import Mailbox, logger, monotonic

_log: Final = logger("qbridge.rabbitmq")
_GATHER: Final = 0.002
_PAUSE: Final = 0.1
_SAY_EVERY: Final = 60.0
_ours = threading.local()
# It runs in a thread of its own, and logs what the attempt to connect reports anyway.
_RESOLVER: Final = "_resolve"
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


class IOThread:
    """A daemon thread with pika's event loop. ``post`` and ``wake`` may be called from any thread.

    It holds its thread instead of being one: the names of ``threading.Thread`` differ from release to release.

    Whatever goes wrong in it, it goes on with a new loop and new connections: nobody knows what an error has left
    of pika's.

    Args:
        flush: called in this thread after each :meth:`wake`, to send what others have gathered; returns whether there
            was anything.
        reset: called in this thread with an unforeseen error, when there is a new loop; it makes all else anew.
    """

    def __init__(self, flush: Callable[[], bool], reset: Callable[[Exception], None]) -> None:
        _keep_pika_quiet()  # not in the thread: a lock of logging may be held
        self.ioloop = IOLoop()
        self._thread = threading.Thread(target=self._run, name="qbridge-rabbitmq", daemon=True)
        self._flush = flush
        self._reset = reset
        self._mailbox: Mailbox[Callable[[], None]] = Mailbox(self._rouse)
        self._timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self._numbers = itertools.count()
        self._due = False
        self._stopping = False
        self._ended = False
        self._broken: Exception | None = None
        self._said_at = -_SAY_EVERY

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """In any thread: whether it runs."""
        return self._thread.is_alive()

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread call this, soon and after what was posted before."""
        self._mailbox.post(call)
        if self._ended:
            self._work()

    def wake(self) -> None:
        """Have the thread run what was posted and flush. Costs next to nothing when it was woken already."""
        self._mailbox.ring()
        if self._ended:
            self._work()

    def _rouse(self) -> None:
        # Without ``contextlib``, whose three calls cost more than the rest. After an error the loop has the call
        # already, and looks by itself every few seconds.
        try:  # noqa: SIM105
            self.ioloop.add_callback_threadsafe(self._work)
        except Exception:  # noqa: BLE001, S110
            pass

    def wake_soon(self) -> None:
        """Have the thread flush within some milliseconds; at once if it has not done so for a while.

        Where many threads finish short tasks, each flush then serves many of them.
        """
        if not self._due or self._ended:
            self.wake()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """In this thread only: call something after a pause."""
        number = next(self._numbers)
        self._timers[number] = monotonic() + seconds, call
        self._arm(number, seconds)

    def stop(self) -> None:
        """In this thread only: end it."""
        self._stopping = True
        self.ioloop.stop()

    def let_go(self) -> None:
        """In a forked child: close the descriptors, which are the parent's, and send nothing."""
        self._ended = True
        poller = self.ioloop._poller  # type: ignore[attr-defined]
        for name in ("_r_interrupt", "_w_interrupt", "_poll"):
            if (descriptor := getattr(poller, name, None)) is not None:
                descriptor.close()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        """Run the loop until it is stopped; then what is still posted, so that nobody waits for it in vain."""
        _ours.io = True
        try:
            failure: BaseException | None = None
            while not self._stopping:
                try:
                    if failure is not None:
                        self._recover(failure)
                    failure = None
                    self.ioloop.start()
                except BaseException as exc:  # noqa: BLE001 - without the loop the client would be alive and silent
                    failure = exc
                    self._say(exc)
                    time.sleep(_PAUSE)  # one that comes again at once must not take a whole processor
        finally:
            self._ended = True
            self._work()
            with suppress(Exception):
                self.ioloop.close()

    def _recover(self, error: BaseException) -> None:
        """Go on after an error that nobody foresaw, with a new loop: the old one may lack descriptors or timers."""
        with suppress(Exception):
            self.ioloop.close()
        self.ioloop = IOLoop()
        self._mailbox.forget_ring()
        self._due = False
        now = monotonic()
        for number, (due, _) in list(self._timers.items()):
            self._arm(number, max(0.0, due - now))
        self._begin_anew(error)
        self.wake()

    def _begin_anew(self, error: BaseException) -> None:
        self._broken = None
        try:
            self._reset(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        except Exception as exc:  # noqa: BLE001 - it is tried again
            self._say(exc)
            self.later(_PAUSE, lambda: self._begin_anew(error))

    def _say(self, error: BaseException) -> None:
        now = monotonic()
        if now - self._said_at > _SAY_EVERY:
            self._said_at = now
            with suppress(Exception):
                _log.error("an error in the client's own thread; it makes its connections anew", exc_info=error)

    def _arm(self, number: int, seconds: float) -> None:
        self.ioloop.call_later(seconds, lambda: self._ring(number))

    def _ring(self, number: int) -> None:
        timer = self._timers.pop(number, None)
        if timer is not None:
            self._guarded(timer[1])

    def _work(self) -> None:
        for call in self._mailbox.take():
            self._guarded(call)
        if self._flushed() and not self._due and not self._ended:
            self._due = True
            self.ioloop.call_later(_GATHER, self._flush_again)
        if self._broken is not None and not self._ended:
            self._begin_anew(self._broken)
        if self._mailbox:
            self.wake()

    def _flush_again(self) -> None:
        # Cleared before the flush: whoever has something after it wakes this thread.
        self._due = False
        self._work()

    def _flushed(self) -> bool:
        try:
            return self._flush()
        except Exception as exc:  # noqa: BLE001 - as in _guarded
            self._break(exc)
            return False

    def _guarded(self, call: Callable[[], None]) -> None:
        """An error in one call must not end the loop, which all others need."""
        try:
            call()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the loop goes on
            self._break(exc)

    def _break(self, error: Exception) -> None:
        """Something was left half done: as soon as possible all is made anew."""
        self._say(error)
        if self._broken is None:
            self._broken = error
            self.wake()


def _from_elsewhere(record: logging.LogRecord) -> bool:
    """Whether a record of pika's is to be seen: another user's, or one of a logger whose level somebody has set."""
    if record.funcName != _RESOLVER and not getattr(_ours, "io", False):
        return True
    return _has_level(logging.getLogger(record.name))


def _has_level(target: logging.Logger | None) -> bool:
    while target is not None and target.parent is not None:
        if target.level:
            return True
        target = target.parent
    return False


def _silence(target: logging.Logger) -> None:
    """Have it make no record in our threads: a program's LogRecord factory may raise or block there."""

    def is_enabled_for(level: int) -> bool:
        if getattr(_ours, "io", False) and not _has_level(target):
            return False
        return logging.Logger.isEnabledFor(target, level)

    target.isEnabledFor = is_enabled_for  # type: ignore[method-assign]


def _keep_pika_quiet() -> None:
    """Drop what pika logs in our threads, unless the level of one of its loggers (``pika``) was set.

    It reports each lost connection in several errors with tracebacks; this package reports it once, in one line. Other
    users of pika in the process are not affected.
    """
    for name in _PIKA_LOGGERS:
        target = logging.getLogger(name)
        target.addFilter(_from_elsewhere)  # adding it twice does nothing
        _silence(target)
