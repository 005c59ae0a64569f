"""Runs ``async def`` handlers on an event loop.

There is one loop for all tasks of a worker, which several workers may share. A coroutine that blocks it holds up all
others, so a loop that does not answer is left to whoever blocks it, and another one takes its place.
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
from qbridge_core.execute.loops import Loops, shared
from qbridge_core.execute.loopthread import LoopThread, tenant
from qbridge_core.execute.threadpool import ThreadPool
from qbridge_core.task.run import Run


class AsyncHandler(Executor):
    """A coroutine function and the loop that it runs on. Thread-safe.

    Args:
        function: called as ``function(payload)``; what it returns is awaited.
        workers: how many tasks run at once. At least as many blocking calls of coroutines do.
        loop_factory: makes the event loop; asyncio does otherwise.
        lifespan: entered on each loop before anything else is done there. Without one, handlers whose loops are made
            by the same factory may share them.

    Attributes:
        threads: for blocking calls.
        context: what the contexts of hooks are copies of.
        runs_on: says whether a coroutine runs on a loop whose result counts; may be replaced.
        moved: called when a loop was replaced; may be replaced, too.
    """

    in_thread = False
    on_loop = True
    runs_on: Callable[[LoopThread], bool] = staticmethod(lambda _: False)
    moved: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        function: Callable[[Any], Coroutine[Any, Any, object]],
        workers: int = 1,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__(function, lifespan=lifespan)
        self.function: Final = function
        self.threads = ThreadPool(workers, _is_running)
        self._loop_factory = loop_factory
        self._lock = threading.Lock()
        self._loops: Loops | None = None
        self.context = self._own_context = Context()
        self._own_context.run(tenant.set, self)

    def loop(self) -> LoopThread | None:
        """The loop to run on; None when this is closed.

        Raises:
            RuntimeError: the system has no thread left for one.
            ConfigurationError: what the factory makes is no event loop.
            BaseException: whatever the factory raises.
        """
        loops = self._loops
        if loops is None:
            with self._lock:
                if self._ends:
                    return None
                loops = self._loops = self._loops or self._entered()
        return loops.current(self)

    def context_on(self, loop: LoopThread) -> Context:
        """What the contexts of its tasks there are copies of."""
        return self._own_context if self.lifespan is None else loop.context

    def _entered(self) -> Loops:
        if self.lifespan is None:
            return shared.enter(self, self._loop_factory, self._made)
        loops = Loops(self._made_with_lifespan)
        loops.enter(self)
        return loops

    def _made(self, lifespan: OpenedLifespan | None = None) -> LoopThread:
        made = (self._loop_factory or asyncio.new_event_loop)()
        if not isinstance(made, asyncio.AbstractEventLoop):
            raise ConfigurationError(f"loop_factory must make an event loop of asyncio, not {made!r}")
        return LoopThread(made, lifespan)

    def _made_with_lifespan(self) -> LoopThread:
        assert self.lifespan is not None  # noqa: S101 - it is for those that have one
        opened = OpenedLifespan(self.lifespan, self.lifespan_failed)
        loop = self._made(opened)
        self._opened = opened
        self.context = loop.context
        self.context.run(tenant.set, self)
        return loop

    def open(self) -> None:
        """Start the loop, and enter the lifespan there; wait until it is entered or ``close`` is called."""
        loop = self.loop()
        if loop is not None and loop.lifespan is not None:
            loop.lifespan.wait()

    def replace(self, loop: LoopThread) -> None:
        """Use this loop for no other task, of whomever."""
        if self._loops is not None:
            self._loops.replace(loop)

    @property
    def replaced(self) -> int:
        """How many loops were replaced, on each of which something of this handler may have run."""
        return 0 if self._loops is None else self._loops.replaced

    def needs(self, loop: LoopThread) -> bool:
        """Whether a coroutine runs there whose result counts, of whomever."""
        return self._loops is not None and self._loops.are_needed(loop)

    def stuck(self, abandoned: int) -> int:
        """How many hang: coroutines, their blocking calls, and loops that were replaced and are still blocked."""
        del abandoned  # no thread of a worker runs a handler
        return sum(loop.stuck(self) for loop in self._all()) + self.threads.stuck()

    def owns_current_thread(self) -> bool:
        """True where coroutines run, and in the threads of their blocking calls."""
        return any(loop.is_current for loop in self._all()) or self.threads.owns_current_thread()

    def _all(self) -> list[LoopThread]:
        return [] if self._loops is None else self._loops.all()

    def close(self) -> None:
        """Cancel what runs, and end the loop unless others use it; one that does not answer is left behind."""
        with self._lock:
            self._ends = True
        self.threads.close()
        if self._loops is not None:
            self._loops.leave(self)


def _is_running(run: Run) -> bool:
    return run.in_handler and not run.cancelled
