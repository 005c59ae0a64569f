"""What the slots of a pool work with, whatever kind they are."""

from __future__ import annotations

from dataclasses import dataclass

from qbridge_core.execute.executor import Executor
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.settler import Settler


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a pool works with."""

    executor: Executor
    dispatcher: Dispatcher
    settler: Settler
    consequences: Consequences
    lifecycle: Lifecycle
    task_timeout: float
    max_message_bytes: int
    poison: PoisonRule | None = None
