"""Looks after handlers that have not ended though their runs were taken from them: the log says so, and who listens."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.task.context import HandlerTimeout
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.run import Run, in_words

_log: Final = logger("qbridge.worker")
PATIENCE: Final = 1.0
"""Seconds that a handler gets to end by itself, once it is interrupted or cancelled."""
_LAST_WAIT: Final = 0.2


class Abandoned:
    """The handlers of one session that are to end, and have not yet.

    Args:
        lifecycle: the hooks.
        listens: whether anybody wants to know.
    """

    def __init__(self, lifecycle: Lifecycle, listens: bool) -> None:
        self._lifecycle = lifecycle
        self._listens = listens
        self._waiting: deque[tuple[float, Run, bool]] = deque()

    def watch(self, run: Run, *, is_late: bool = True) -> None:
        """A run was taken from its handler: because its time is over, or else because others need its slot."""
        self._waiting.append((monotonic() + PATIENCE, run, is_late))

    def look(self, now: float) -> float:
        """Tell of those that have had their time to end; return the seconds until the next one has. For one thread."""
        waiting = self._waiting
        while waiting:
            at, run, is_late = waiting[0]
            if at > now:
                return at - now
            waiting.popleft()
            if _goes_on(run):
                _say(run, is_late)
                if self._listens:
                    aside("qbridge-abandoned", functools.partial(self._tell, run, is_late))
        return math.inf

    def end(self) -> None:
        """The session ends: tell of all that have not, and wait for that a little."""
        left = [(run, is_late) for _, run, is_late in self._waiting if _goes_on(run)]
        self._waiting.clear()
        for run, is_late in left:
            _say(run, is_late)
        if left and self._listens:
            aside("qbridge-abandoned", functools.partial(self._tell_all, left)).join(_LAST_WAIT)

    def _tell_all(self, left: Iterable[tuple[Run, bool]]) -> None:
        for run, is_late in left:
            self._tell(run, is_late)

    def _tell(self, run: Run, is_late: bool) -> None:
        """In a thread of its own, for plugins may hang."""
        if run.scope is not None:
            run.scope.abandon(HandlerTimeout("the handler has not ended, and its result does not count any more"))
        if is_late:
            self._lifecycle.task_abandoned(queue=run.delivery.queue, task_id=run.task_id, attempt=run.attempt)


def _say(run: Run, is_late: bool) -> None:
    if is_late:
        fields = run.log_fields()
        _log.warning(
            "%s was to end when its %g s were over, and goes on: what it does changes nothing any more, and it counts "
            "as stuck (max_abandoned) until it ends",
            in_words(fields), run.terms.timeout, extra=fields,
        )  # fmt: skip


def _goes_on(run: Run) -> bool:
    return run.in_handler or (run.scope is not None and not run.scope.is_left)
