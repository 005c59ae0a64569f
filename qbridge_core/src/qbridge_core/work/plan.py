"""What a ``TaskManager`` was told to do, and the parts that each of its sessions is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue
from qbridge_core.execute.executor import Executor, is_coroutine_function
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.runtime.processors import usable_processors
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import Tally
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.routing import Router
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.task.terms import Terms
from qbridge_core.work.abandoned import Abandoned
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.job import Job
from qbridge_core.work.poison.importing import can_be_isolated
from qbridge_core.work.poison.isolation import Isolation
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import SideQueue
from qbridge_core.work.readahead import SECONDS_FOR_CHILDREN, SECONDS_HELD
from qbridge_core.work.session import Session
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.rules import Rules
from qbridge_core.work.settle.settler import Settler

if TYPE_CHECKING:
    import asyncio

    from qbridge_core.execute.processes.children import Program

USUAL_COROUTINES: Final = 100


def usual_workers(handler: Callable[..., object], program: Program | None) -> int:
    """How many tasks run at once when nobody has said."""
    processors = usable_processors()
    if program is not None:
        return processors
    return USUAL_COROUTINES if is_coroutine_function(handler) else min(32, processors + 4)


@dataclass(frozen=True, slots=True)
class Plan:
    """The arguments of a manager, checked; those that are not here are in ``rules``, ``lifecycle`` and ``program``.

    Attributes:
        terms: those of each task, or all that there are where the handler is a router.
        program: what child processes load, if handlers run in some.
        workers: how many tasks run at once.
        run_hooks: has plugins enter something around each run.
        formats: of what formats the messages are; ``None`` for the envelope alone.
    """

    client: QueueClient
    handler: Callable[[Any], object]
    dead_letter_queue: str
    rules: Rules
    terms: Sequence[Terms]
    lifecycle: Lifecycle
    run_hooks: RunHooks | None
    formats: Formats | None
    program: Program | None
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    lifespan: Lifespan | None
    workers: int
    grace_period: float
    max_abandoned: int
    max_message_bytes: int
    interrupt: bool

    def session(self, tally: Tally, poll_timeout: float) -> Session:
        """Declare the queues, and put a session together.

        Args:
            tally: what counts the outcomes.
            poll_timeout: seconds that one request for messages may wait.

        Raises:
            QBridgeError: the queues cannot be declared, or a task may take longer than the broker allows.
        """
        client, rules, lifecycle = self.client, self.rules, self.lifecycle
        client.declare(rules.queue, self.dead_letter_queue)
        client.check_task_timeout(rules.queue, self.longest_timeout, self.workers)
        side_queue = self._declare_side_queue()
        give_up = threading.Event()
        settler = Settler(client, rules, lifecycle, tally, give_up)
        consequences = Consequences(rules, settler, lifecycle)
        rule = None if side_queue is None else PoisonRule(client, rules, consequences, settler, lifecycle, side_queue)
        held = SECONDS_HELD if self.program is None else SECONDS_FOR_CHILDREN
        dispatcher = Dispatcher(client, rules.queue, self.workers, poll_timeout, side_queue, held)
        job = Job(
            self._executor(), dispatcher, settler, consequences, lifecycle, self._reader(),
            min(terms.timeout for terms in self.terms), self.longest_timeout,
            Abandoned(lifecycle, lifecycle.hears_abandonment or self.run_hooks is not None),
            self.run_hooks if self.program is None else None, rule,
        )  # fmt: skip
        isolation = None if side_queue is None else self._isolation(side_queue, job)
        return Session(
            client, job, rules.queue, self.workers, self.max_abandoned, self.grace_period, give_up, isolation
        )

    @property
    def longest_timeout(self) -> float:
        """Seconds that no task may take more than."""
        return max(terms.timeout for terms in self.terms)

    def _reader(self) -> TaskReader:
        router = self.handler if isinstance(self.handler, Router) else None
        return TaskReader(self.formats, router, self.terms[0], self.max_message_bytes, clock=self.client.clock)

    def _executor(self) -> Executor:
        if self.program is not None:
            from qbridge_core.execute.processes.children import ProcessExecutor

            return ProcessExecutor(self.program)
        if is_coroutine_function(self.handler):
            from qbridge_core.execute.coroutines import AsyncHandler

            return AsyncHandler(self.handler, self.workers, self.loop_factory, self.lifespan)
        return Executor(self.handler, self.interrupt, self.lifespan)

    def _declare_side_queue(self) -> SideQueue | None:
        if not self.client.capabilities.crashes:
            return None
        rules = self.rules
        name = suspects_queue(rules.queue)
        side_queue = SideQueue(self.client, name, rules.max_crashes, in_children=rules.processes, slots=self.workers)
        self.client.declare(side_queue.queue, self.dead_letter_queue)
        return side_queue

    def _isolation(self, side_queue: SideQueue, job: Job) -> Isolation | None:
        """What runs suspects in a child process, where that may be possible."""
        if job.poison is None or self.rules.processes or not can_be_isolated(self.handler, self.lifespan):
            return None
        return Isolation(
            side_queue, job.poison, job.settler, job.consequences, self.lifecycle, self.handler,
            job.reader, job.longest_timeout, self.workers, self.lifespan, self.run_hooks, self.formats,
        )  # fmt: skip
