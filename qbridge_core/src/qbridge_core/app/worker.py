"""The worker program of an app: a manager for each queue, all of them run as one worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qbridge_core.app.dispatch import dispatch_for
from qbridge_core.app.queues import Queue
from qbridge_core.app.task import AppTask
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import ConfigurationError, IdleTimeoutError
from qbridge_core.task.outcome import Outcome, RunReport
from qbridge_core.work.manager import TaskManager
from qbridge_core.work.workers import Workers


def managers_for(
    client: QueueClient,
    queues: Iterable[Queue],
    tasks: Sequence[AppTask[Any]],
    patience: float,
    settings: Mapping[str, Any],
) -> list[TaskManager]:
    """A manager for each queue.

    Args:
        client: a connected client.
        queues: those to work on; each has a task at least.
        tasks: all tasks.
        patience: seconds for which a message waits that needs a newer program.
        settings: arguments of each manager.
    """
    managers: list[TaskManager] = []
    for queue in queues:
        processes = queue.settings.get("executor") == "process"
        own = [task for task in tasks if task.queue == queue.name]
        router = dispatch_for(queue.name, own, patience, processes=processes)
        managers.append(
            TaskManager(client, router, queue.name, queue.dead_letter_queue, **{**settings, **queue.settings})
        )
    return managers


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
    report = _sum([manager.report() for manager in managers])
    if late.is_set():
        names = ", ".join(manager.input_queue for manager in managers)
        raise IdleTimeoutError(f"there is still work in {names} after {timeout:g} s ({report})", report)
    return report


def _sum(reports: Iterable[RunReport]) -> RunReport:
    counts: Counter[Outcome] = Counter()
    for report in reports:
        counts.update(report.counts)
    return RunReport({outcome: counts[outcome] for outcome in Outcome if counts[outcome]})
