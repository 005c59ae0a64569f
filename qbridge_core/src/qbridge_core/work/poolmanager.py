"""``PoolManager``: a manager whose workers take the tasks of several queues, by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue
from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.executor import Handler
from qbridge_core.task.outcome import PoolTally
from qbridge_core.work.arguments import check_queues
from qbridge_core.work.manager import TaskManager
from qbridge_core.work.pooled.queues import InputQueue


class PoolManager(TaskManager):
    """What :meth:`App.managers` has for the queues of a pool: one manager for all of them.

    Args:
        queue_client: a connected client.
        handler: what runs, whichever queue its tasks come from.
        queues: at least two.
        **settings: the other arguments of :class:`~qbridge_core.TaskManager`.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self, queue_client: QueueClient, handler: Handler, queues: Sequence[InputQueue], **settings: Any
    ) -> None:
        super().__init__(queue_client, handler, queues[0].name, queues[0].dead_letter_queue, **settings)
        names = {queue.name for queue in queues}
        for queue in queues:
            check_queues(queue.name, queue.dead_letter_queue)
            if queue.dead_letter_queue in names | set(map(suspects_queue, names)):
                raise ConfigurationError(
                    f"dead_letter_queue of {queue.name!r} cannot be {queue.dead_letter_queue!r}, from which this pool "
                    "takes tasks; choose another name"
                )
        self._plan = replace(self._plan, pool=tuple(queues))
        self._tally = PoolTally(names)
