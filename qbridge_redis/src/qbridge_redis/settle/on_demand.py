"""Acknowledges with a thread that is there only while there is something to acknowledge.

For a client of several servers: while nothing comes, one thread less for each of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from qbridge_redis.settle.acknowledgements import Acknowledgements
from qbridge_redis.state.context import NodeContext, ServerContext, log

_LINGERS: Final = 5.0


class AcknowledgementsOnDemand(Acknowledgements):
    """See ``Acknowledgements``. Whoever sets the server's ``acks_waiting`` starts the thread."""

    def __init__(self, server: ServerContext, contexts: Callable[[], Sequence[NodeContext]]) -> None:
        super().__init__(server, contexts)
        self._lock = threading.Lock()
        server.acks_waiting.answer = self._ensure

    def start(self) -> None:
        """Nothing, yet."""

    def _ensure(self) -> None:
        with self._lock:
            if self._thread is not None or self._is_ended or self._server.closing.is_set():
                return
            try:
                super().start()
            except RuntimeError as exc:  # maintenance asks for it again
                log.warning("nobody acknowledges to Redis at the moment: %s", exc)

    def _wait(self) -> bool:
        pause = self._pause()
        if self._wanted.wait(_LINGERS if pause is None else pause) or pause is not None:
            return True
        with self._lock:  # so that whoever sets it either is seen here or sees that there is no thread
            if not self._wanted.is_set():
                self._thread = None
            return self._thread is not None
