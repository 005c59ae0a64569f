"""What the slots of a pool work with, whatever kind they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbridge_core.execute.executor import Executor
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.work.abandoned import Abandoned
from qbridge_core.work.dispatcher import Dispatcher

if TYPE_CHECKING:
    from qbridge_core.work.pooled.settling import AnyConsequences, AnySettler
    from qbridge_core.work.pooled.suspects import AnyPoisonRule


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a pool works with.

    Attributes:
        reader: reads the messages.
        shortest_timeout: seconds that no task may take less than.
        longest_timeout: seconds that no task may take more than.
        abandoned: looks after handlers that do not end.
        run_hooks: has plugins enter something around each run here; None when none wants to, or children do it.
    """

    executor: Executor
    dispatcher: Dispatcher
    settler: AnySettler
    consequences: AnyConsequences
    lifecycle: Lifecycle
    reader: TaskReader
    shortest_timeout: float
    longest_timeout: float
    abandoned: Abandoned
    run_hooks: RunHooks | None = None
    poison: AnyPoisonRule | None = None
