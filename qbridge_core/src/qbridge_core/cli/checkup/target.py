"""The program that is looked at: what its ``module:name`` says of queues, handlers and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click

from qbridge_core.cli.targets import takes_payload
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.findings import QueueUse
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.work.manager import DEFAULT_GRACE_PERIOD, TaskManager


@dataclass(frozen=True, slots=True)
class Target:
    """What a worker would do.

    Attributes:
        handler: what runs a task.
        lifespan: what its processes open.
        grace_period: seconds that running tasks get when it stops.
        use: its queue, where the target says so.
        client: its own, connected, where it has one.
    """

    handler: Callable[..., object]
    lifespan: Lifespan | None = None
    grace_period: float = DEFAULT_GRACE_PERIOD
    use: QueueUse | None = None
    client: QueueClient | None = None


def target_of(found: object) -> Target:
    """What a manager, a function that makes one, or a handler says. The function is called.

    Raises:
        click.UsageError: it is none of them.
        Exception: whatever the function raises.
    """
    if not isinstance(found, TaskManager) and not callable(found):
        raise click.UsageError(
            f"a target is a TaskManager, a function that returns one, or a handler, not a {type(found).__name__}"
        )
    if callable(found) and not takes_payload(found):
        found = found()
        if not isinstance(found, TaskManager):
            raise click.UsageError(
                f"the target returns a {type(found).__name__} and no TaskManager; a handler takes the payload"
            )
    return _of_manager(found) if isinstance(found, TaskManager) else Target(found)


def _of_manager(manager: TaskManager) -> Target:
    plan = manager._plan  # what it was made with, checked
    use = QueueUse(plan.rules.queue, plan.dead_letter_queue, plan.rules.task_timeout, plan.workers)
    return Target(plan.handler, plan.lifespan, plan.grace_period, use, plan.client)
