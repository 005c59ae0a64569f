"""Threads that run what may wait for a broker, so that who asks for it need not."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from qbridge_core.runtime.logs import logger

_log: Final = logger("qbridge.threads")
_IDLE: Final = 1.0  # seconds; starting a thread costs less than one that is there for nothing


class HelperThreads:
    """Daemon threads that run calls, started as they are needed. Thread-safe, and its own in a forked child.

    Args:
        name: of the threads.
        most: so many calls run at once; others wait for their turn. There is one thread more than that needs.
    """

    def __init__(self, name: str, most: int = 32) -> None:
        self._name = name
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._calls: deque[Callable[[], object]] = deque()
        self._threads = self._idle = 0

    def run(self, call: Callable[[], object]) -> None:
        """Have a thread call this. Never waits.

        Raises:
            RuntimeError: the system has no thread left, and there is none that could do it later.
        """
        if self._pid != os.getpid():
            self._begin()  # the parent's threads do not exist here, and one of them may have held the lock
        with self._changed:
            self._calls.append(call)
            self._changed.notify()
            if self._threads:
                return
            self._threads += 1
        try:
            self._start()
        except RuntimeError:
            with self._changed:
                if call not in self._calls:
                    return  # another one has come meanwhile, and its thread does it
                self._calls.remove(call)
            raise

    def _start(self) -> None:
        """Start one that was counted."""
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError:
            with self._changed:
                self._threads -= 1
            raise

    def _work(self) -> None:
        while (call := self._next()) is not None:
            self._start_spare()
            try:
                call()
            except BaseException:  # noqa: BLE001 - the next call must not wait in vain for this thread
                _log.exception("a call in %s failed", self._name)
            del call  # it may hold a message

    def _start_spare(self) -> None:
        """See that somebody waits for the next call: starting a thread waits for it, and who calls ``run`` must not."""
        with self._changed:
            if self._idle or self._threads >= self._most:
                return
            self._threads += 1
        with suppress(RuntimeError):
            self._start()

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._calls:
                self._idle += 1
                called = self._changed.wait(_IDLE)
                self._idle -= 1
                if not called and not self._calls:
                    self._threads -= 1
                    return None
            return self._calls.popleft()
