"""The program that is looked at: what its ``module:name`` says of queues, handlers and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qbridge_core.app.app import App
from qbridge_core.cli.targets import takes_payload
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.findings import QueueUse
from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.work.manager import DEFAULT_GRACE_PERIOD, TaskManager


@dataclass(frozen=True, slots=True)
class Target:
    """What a worker would do.

    Attributes:
        handlers: what runs tasks: one, or those of an app.
        lifespan: what its processes open.
        grace_period: seconds that running tasks get when it stops.
        uses: its queues, where the target says so.
        client: its own, connected, where it has one.
        formats: those of a manager's messages; ``None`` for the envelope alone.
    """

    handlers: tuple[Callable[..., object], ...]
    lifespan: Lifespan | None = None
    grace_period: float = DEFAULT_GRACE_PERIOD
    uses: tuple[QueueUse, ...] = ()
    client: QueueClient | None = None
    formats: Formats | None = None


def is_target(found: object) -> bool:
    """Whether it is an app, a manager, or a function that may be a handler or make one."""
    return isinstance(found, App | TaskManager) or (callable(found) and not isinstance(found, type))


def target_of(found: object) -> Target:
    """What an app, a manager, a function that makes one, or a handler says. The function is called.

    Raises:
        ConfigurationError: the function makes something else.
        Exception: whatever it raises.
    """
    if isinstance(found, App):
        return _of_app(found)
    if callable(found) and not isinstance(found, TaskManager):
        if takes_payload(found):
            return Target((found,))
        found = found()
    if not isinstance(found, TaskManager):
        raise ConfigurationError(f"it returns a {type(found).__name__} and no TaskManager")
    return _of_manager(found)


def _of_manager(manager: TaskManager) -> Target:
    plan = manager._plan  # what it was made with, checked
    return Target((plan.handler,), plan.lifespan, plan.grace_period, _uses_of(manager), plan.client, plan.rules.formats)


def _of_app(app: App) -> Target:
    managers = app.managers()
    plan = managers[0]._plan
    uses = tuple(use for manager in managers for use in _uses_of(manager))
    return Target(tuple(app.tasks), plan.lifespan, plan.grace_period, uses, plan.client)


def _uses_of(manager: TaskManager) -> tuple[QueueUse, ...]:
    plan = manager._plan
    return tuple(
        QueueUse(queue.name, queue.dead_letter_queue, plan.longest_timeout, plan.workers) for queue in plan.queues
    )
