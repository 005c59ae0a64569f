"""The worker program of an app: a manager for each queue or pool, all of them run as one worker."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qbridge_core.app.dispatch import dispatch_for
from qbridge_core.app.queues import Queue, QueuePool
from qbridge_core.app.task import AppTask
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import ConfigurationError, IdleTimeoutError
from qbridge_core.task.outcome import RunReport, total
from qbridge_core.work.manager import TaskManager
from qbridge_core.work.pooled.queues import InputQueue
from qbridge_core.work.poolmanager import PoolManager
from qbridge_core.work.workers import Workers


def managers_for(
    client: QueueClient,
    queues: Iterable[Queue],
    pools: Iterable[QueuePool],
    tasks: Sequence[AppTask[Any]],
    patience: float,
    settings: Mapping[str, Any],
) -> list[TaskManager]:
    """A manager for each queue, and one for the queues of each pool.

    Args:
        client: a connected client.
        queues: those to work on; each has a task at least.
        pools: those that there are.
        tasks: all tasks.
        patience: seconds for which a message waits that needs a newer program.
        settings: arguments of each manager.
    """
    managers: list[TaskManager] = []
    for pool, together in _grouped(queues, pools):
        own = {**settings, **(together[0].settings if pool is None else pool.settings)}
        names = [queue.name for queue in together]
        processes = own.get("executor") == "process"
        found = [task for task in tasks if task.queue in names]
        others = [task for task in tasks if task.queue not in names]
        elsewhere = {name: task.queue for task in others for name in (task.name, *task.aliases)}
        router = dispatch_for(", ".join(names), found, patience, processes=processes, elsewhere=elsewhere)
        if pool is None or len(together) == 1:
            managers.append(TaskManager(client, router, names[0], together[0].dead_letter_queue, **own))
        else:
            shares = [InputQueue(each.name, each.dead_letter_queue, pool.weights[each.name]) for each in together]
            managers.append(PoolManager(client, router, shares, **own))
    return managers


def _grouped(queues: Iterable[Queue], pools: Iterable[QueuePool]) -> list[tuple[QueuePool | None, list[Queue]]]:
    """The queues of each pool together, each other one alone, in their order."""
    pool_of = {name: pool for pool in pools for name in pool.weights}
    groups: dict[str, tuple[QueuePool | None, list[Queue]]] = {}
    for queue in queues:
        pool = pool_of.get(queue.name)
        key = f"queue {queue.name}" if pool is None else f"pool {pool.name}"
        groups.setdefault(key, (pool, []))[1].append(queue)
    return list(groups.values())


def check_used(pools: Iterable[QueuePool], used: Sequence[str]) -> None:
    """Refuse pools with a queue that has no task, which is misspelt most often.

    Raises:
        ConfigurationError: there is one.
    """
    for pool in pools:
        for name in pool.weights:
            if name not in used:
                raise ConfigurationError(
                    f"no task of this app has the queue {name!r} of pool {pool.name!r}; there are {', '.join(used)}"
                )


def chosen(queues: Mapping[str, Queue], used: Sequence[str], names: Sequence[str] | None) -> list[Queue]:
    """The queues to work on: those that have tasks, or those of them that are named.

    Raises:
        ConfigurationError: there are none, or one that is named has no task.
    """
    if isinstance(names, str):
        raise ConfigurationError(f"queues must be a list of names, not {names!r}: write [{names!r}]")
    if not used:
        raise ConfigurationError("this app has no tasks; import the modules that define them, or include their apps")
    for name in names or ():
        if name not in used:
            raise ConfigurationError(f"no task of this app has the queue {name!r}; there are {', '.join(used)}")
    return [queues[name] for name in dict.fromkeys(names or used)]


def work_until_idle(managers: Sequence[TaskManager], timeout: float) -> RunReport:
    """Work until all queues are empty at once; what happened.

    Raises:
        IdleTimeoutError: there was work left after so many seconds.
        The errors of ``run_workers``.
    """
    workers = Workers(managers)
    late = threading.Event()

    def expire() -> None:
        late.set()
        workers.stop(now=True)

    timer = threading.Timer(timeout, expire)
    timer.daemon = True
    timer.start()
    try:
        workers.run(until_idle=True)
    finally:
        timer.cancel()
    report = total(manager.report() for manager in managers)
    if late.is_set():
        names = ", ".join(name for manager in managers for name in manager.input_queues)
        raise IdleTimeoutError(f"there is still work in {names} after {timeout:g} s ({report})", report)
    return report
