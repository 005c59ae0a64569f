"""The lifespan of plain functions: in a thread of its own, and on an event loop of its own where it needs one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from qbridge_core.execute.lifespan import Lifespan, OpenedLifespan

if TYPE_CHECKING:
    from qbridge_core.execute.loopthread import LoopThread
    from qbridge_core.execute.threadpool import ThreadPool


class LifespanThread:
    """Enters and leaves a lifespan. Thread-safe.

    Args:
        lifespan: makes the context manager.
        failed: as for :class:`~qbridge_core.execute.lifespan.OpenedLifespan`.

    Attributes:
        opened: the lifespan.
    """

    def __init__(self, lifespan: Lifespan, failed: Callable[[BaseException], object]) -> None:
        self.opened = OpenedLifespan(lifespan, failed)
        self._loop: LoopThread | None = None
        self._threads: ThreadPool | None = None
        self._thread = threading.Thread(target=self._run, name="qbridge-lifespan", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system has no thread left.
        """
        self._thread.start()

    def owns_current_thread(self) -> bool:
        """True where it is entered and left, and in the threads of its blocking calls."""
        threads = self._threads
        return self.opened.is_current or (threads is not None and threads.owns_current_thread())

    def close(self) -> None:
        """Have it left, or its entering given up, soon."""
        self.opened.close()
        if self._loop is not None:
            self._loop.stop()

    def _run(self) -> None:
        if self.opened.live():
            return
        try:
            self._run_loop()
        except BaseException as exc:  # noqa: BLE001 - the system has no descriptor left for a loop, for one
            self.opened.fail(exc)

    def _run_loop(self) -> None:
        import asyncio  # here, for others do without it

        from qbridge_core.execute.loopthread import LoopThread
        from qbridge_core.execute.threadpool import ThreadPool

        loop = asyncio.new_event_loop()
        self._threads = ThreadPool()
        self._threads.serve(loop)
        self._loop = LoopThread(loop, self.opened)
        self._loop.run()
        self._threads.close()
