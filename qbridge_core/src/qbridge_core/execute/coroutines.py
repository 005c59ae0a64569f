"""Runs ``async def`` handlers on an event loop.

There is one loop, in a thread of its own, for all tasks of a worker. A coroutine that blocks it holds up all others, so
a loop that does not answer is left to whoever blocks it, and another one takes its place.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.executor import Executor
from qbridge_core.execute.lifespan import Lifespan, OpenedLifespan
from qbridge_core.execute.loopthread import LoopThread
from qbridge_core.execute.threadpool import ThreadPool
from qbridge_core.task.run import Run


class AsyncHandler(Executor):
    """A coroutine function and the loop that it runs on. Thread-safe.

    Args:
        function: called as ``function(payload)``; what it returns is awaited.
        workers: how many tasks run at once. At least as many blocking calls of coroutines do.
        loop_factory: makes the event loop; asyncio does otherwise.
        lifespan: entered on each loop before anything else is done there.

    Attributes:
        context: what the contexts of hooks are copies of.
    """

    in_thread = False
    on_loop = True

    def __init__(
        self,
        function: Callable[[Any], Coroutine[Any, Any, object]],
        workers: int = 1,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__(function, lifespan=lifespan)
        self.function: Final = function
        self._loop_factory = loop_factory or asyncio.new_event_loop
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None
        self._loops: list[LoopThread] = []
        self.context = Context()
        self._threads = ThreadPool(workers, _is_running)

    def loop(self) -> LoopThread | None:
        """The loop to run on; None when this is closed.

        Raises:
            RuntimeError: the system has no thread left for one.
            ConfigurationError: what the factory makes is no event loop.
            BaseException: whatever the factory raises.
        """
        with self._lock:
            if self._loop is None and not self._ends:
                # Not in the context of the task that happens to be the first: the loop would keep it for ever.
                self._loop = Context().run(self._new_loop)
            return self._loop

    def _new_loop(self) -> LoopThread:
        made = self._loop_factory()
        if not isinstance(made, asyncio.AbstractEventLoop):
            raise ConfigurationError(f"loop_factory must make an event loop of asyncio, not {made!r}")
        if self.lifespan is None:
            loop = LoopThread(made)
        else:
            self._opened = OpenedLifespan(self.lifespan, self.lifespan_failed)
            loop = LoopThread(made, self._opened)
        self.context = loop.context
        self._threads.serve(made)
        self._loops.append(loop)
        loop.start()
        return loop

    def open(self) -> None:
        """Start the loop, and enter the lifespan there; wait until it is entered or ``close`` is called."""
        loop = self.loop()
        if loop is not None and loop.lifespan is not None:
            loop.lifespan.wait()

    def replace(self, loop: LoopThread) -> None:
        """Use this loop for no other task."""
        with self._lock:
            loop.replaced = True
            if self._loop is loop:
                self._loop = None

    def stuck(self, abandoned: int) -> int:
        """How many hang: coroutines, their blocking calls, and loops that were replaced and are still blocked."""
        del abandoned  # no thread of a worker runs a handler
        with self._lock:
            self._loops = [loop for loop in self._loops if loop.is_alive]
            return sum(loop.stuck() for loop in self._loops) + self._threads.stuck()

    def owns_current_thread(self) -> bool:
        """True where coroutines run, and in the threads of their blocking calls."""
        with self._lock:
            return any(loop.is_current for loop in self._loops) or self._threads.owns_current_thread()

    def close(self) -> None:
        """Cancel what runs and end the loop; one that does not answer is left behind."""
        with self._lock:
            self._ends = True
            loop, self._loop = self._loop, None
        self._threads.close()
        if loop is not None:
            loop.close()


def _is_running(run: Run) -> bool:
    return run.in_handler and not run.cancelled
