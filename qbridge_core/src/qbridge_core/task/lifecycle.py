"""Calls the lifecycle hooks of a worker's plugins.

A pluggy call costs more than the rest of a short task's bookkeeping, so a hook that nobody implements is not called
at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import pluggy

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.clienthooks import attach
from qbridge_core.contract.plugins import plugin_manager
from qbridge_core.runtime.logs import logger
from qbridge_core.task import foreign
from qbridge_core.task.hookorder import ORDER, HookOrder

_log: Final = logger("qbridge.plugins")


def _nothing(**_: object) -> None:
    """Stands for a hook without implementations."""


class Lifecycle:
    """The lifecycle hooks of a set of plugins, each as a function that never raises.

    Attributes:
        order: keeps the hooks about a task in order; None when nobody listens to any.

    Raises:
        ConfigurationError: a plugin cannot be used; see :func:`~qbridge_core.contract.plugins.plugin_manager`.
    """

    order: HookOrder | None = None

    def __init__(self, plugins: Sequence[object]) -> None:
        self._manager = plugin_manager(plugins)
        self.worker_started = self._caller("qbridge_worker_started")
        self.worker_stopping = self._caller("qbridge_worker_stopping")
        self.task_started = self._caller("qbridge_task_started")
        self.task_succeeded = self._caller("qbridge_task_succeeded")
        self.task_failed = self._caller("qbridge_task_failed")
        self.task_timed_out = self._caller("qbridge_task_timed_out")
        self.task_retried = self._caller("qbridge_task_retried")
        self.task_dead_lettered = self._caller("qbridge_task_dead_lettered")
        self.task_settled = self._caller("qbridge_task_settled")
        self.task_crashed = self._caller("qbridge_task_crashed")
        self.task_handed_back = self._caller("qbridge_task_handed_back")
        self.task_abandoned = self._caller("qbridge_task_abandoned")
        self.settlements = self._caller("qbridge_settlements")
        self.settlement_repeated = self._caller("qbridge_settlement_repeated", again=True)
        about_tasks = (
            self.task_started, self.task_succeeded, self.task_failed, self.task_timed_out, self.task_retried,
            self.task_dead_lettered, self.task_settled,
        )  # fmt: skip
        if any(call is not _nothing for call in about_tasks):
            self._keep_order(ORDER)

    def attach_to(self, client: QueueClient) -> None:
        """Have the client call those hooks that are about clients."""
        attach(client, self._manager)

    def _keep_order(self, order: HookOrder) -> None:
        self.order = order
        tell_start, tell_timeout = self.task_started, self.task_timed_out

        def started(queue: str, task_id: str, attempt: int) -> None:
            with order.telling(task_id):
                tell_start(queue=queue, task_id=task_id, attempt=attempt)

        def timed_out(queue: str, task_id: str, attempt: int, timeout: float) -> None:
            order.wait(task_id)
            tell_timeout(queue=queue, task_id=task_id, attempt=attempt, timeout=timeout)

        self.task_started, self.task_timed_out = started, timed_out

    @property
    def hears_start(self) -> bool:
        """True when somebody listens to the start of a worker."""
        return self.worker_started is not _nothing

    @property
    def hears_hand_backs(self) -> bool:
        """True when somebody listens to what goes back to its queue."""
        return self.task_handed_back is not _nothing

    @property
    def hears_abandonment(self) -> bool:
        """True when somebody listens to handlers that do not end."""
        return self.task_abandoned is not _nothing

    @property
    def hears_each_settlement(self) -> bool:
        """True when somebody listens to the settlement of each task."""
        return self.task_settled is not _nothing

    @property
    def hears_settlements(self) -> bool:
        """True when somebody listens to settlements in bulk."""
        return self.settlements is not _nothing

    def give_up(self, thread: int) -> None:
        """A hook hangs in this thread: nobody waits for it."""
        if self.order is not None:
            self.order.give_up(thread)

    def telling(self, task_id: str) -> AbstractContextManager[None]:
        """Around a settlement and the hook that tells of it."""
        return nullcontext() if self.order is None else self.order.telling(task_id)

    def _caller(self, name: str, *, again: bool = False) -> Callable[..., None]:
        """The call of a hook; ``again`` for one that is called more than once in a step that can be repeated."""
        hook: pluggy.HookCaller = getattr(self._manager.hook, name)
        if not hook.get_hookimpls():
            return _nothing

        def guarded(arguments: dict[str, object]) -> None:
            try:
                hook(**arguments)
            except BaseException:  # noqa: BLE001 - a plugin is foreign code, and a test's `fail` no Exception
                _log.exception("a plugin's %s raised; the task is not affected", name)

        def call(**arguments: object) -> None:
            foreign.call(f"a plugin's {name}", object() if again else None, lambda: guarded(arguments), None)

        return call
