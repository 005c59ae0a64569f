"""What a ``TaskManager`` was told to do, and the parts that each of its sessions is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue
from qbridge_core.execute.executor import Executor, is_coroutine_function
from qbridge_core.runtime.processors import usable_processors
from qbridge_core.task.lifecycle import Lifecycle
from qbridge_core.task.outcome import Tally
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.routing import Router
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.task.terms import Terms
from qbridge_core.work.abandoned import Abandoned
from qbridge_core.work.dispatcher import Dispatcher
from qbridge_core.work.job import Job
from qbridge_core.work.line import Line
from qbridge_core.work.poison.importing import can_be_isolated
from qbridge_core.work.poison.isolation import Isolation
from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import SideQueue
from qbridge_core.work.pooled.queues import InputQueue
from qbridge_core.work.readahead import SECONDS_FOR_CHILDREN, SECONDS_HELD
from qbridge_core.work.session import Session
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.rules import Rules
from qbridge_core.work.settle.settler import Settler

if TYPE_CHECKING:
    import asyncio

    from qbridge_core.execute.lifespan import Lifespan
    from qbridge_core.execute.processes.children import Program
    from qbridge_core.work.pooled.reading import PoolReader
    from qbridge_core.work.pooled.settling import AnyConsequences, AnySettler
    from qbridge_core.work.pooled.suspects import AnyPoisonRule, AnySideQueue

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
        rules: of its queue, or of the first of a pool.
        pool: the queues that share the workers, the first included; empty where there is one only.
        terms: those of each task, or all that there are where the handler is a router.
        program: what child processes load, if handlers run in some.
        workers: how many tasks run at once.
        run_hooks: has plugins enter something around each run.
    """

    client: QueueClient
    handler: Callable[[Any], object]
    dead_letter_queue: str
    rules: Rules
    terms: Sequence[Terms]
    lifecycle: Lifecycle
    run_hooks: RunHooks | None
    program: Program | None
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
    lifespan: Lifespan | None
    workers: int
    grace_period: float
    max_abandoned: int
    max_message_bytes: int
    interrupt: bool
    pool: tuple[InputQueue, ...] = ()

    @property
    def queues(self) -> tuple[InputQueue, ...]:
        """Where the tasks come from."""
        return self.pool or (InputQueue(self.rules.queue, self.dead_letter_queue),)

    def session(self, tally: Tally, poll_timeout: float) -> Session:
        """Declare the queues, and put a session together.

        Args:
            tally: what counts the outcomes.
            poll_timeout: seconds that one request for messages may wait.

        Raises:
            QBridgeError: the queues cannot be declared, or a task may take longer than the broker allows.
        """
        give_up = threading.Event()
        lines = [self._line(queue, tally.of(queue.name), give_up) for queue in self.queues]
        reader = self._pool_reader() if self.pool else None
        dispatcher = self._dispatcher(lines, poll_timeout, reader)
        job = self._job(lines, dispatcher)
        for line in lines:
            line.isolation = self._isolation(line, job)
        return Session(self.client, job, lines, self.workers, self.max_abandoned, self.grace_period, give_up, reader)

    def _pool_reader(self) -> PoolReader:
        from qbridge_core.work.pooled.reading import PoolReader

        return PoolReader(self.client, {each.name: each.weight for each in self.pool})

    def _line(self, queue: InputQueue, tally: Tally, give_up: threading.Event) -> Line:
        """Declare a queue, and make what is its own."""
        client, lifecycle, rules = self.client, self.lifecycle, replace(self.rules, queue=queue.name)
        client.declare(queue.name, queue.dead_letter_queue)
        client.check_task_timeout(queue.name, self.longest_timeout, self.workers)
        side_queue = self._declare_side_queue(queue)
        settler = Settler(client, rules, lifecycle, tally, give_up)
        consequences = Consequences(rules, settler, lifecycle)
        line = Line(queue.name, settler, consequences, side_queue)
        if side_queue is not None:
            line.rule = PoisonRule(client, rules, consequences, settler, lifecycle, side_queue)
        return line

    def _dispatcher(self, lines: Sequence[Line], poll_timeout: float, reader: PoolReader | None) -> Dispatcher:
        side_queues = [line.side_queue for line in lines if line.side_queue is not None]
        suspects: AnySideQueue | None = next(iter(side_queues), None)
        if reader is not None and side_queues:
            from qbridge_core.work.pooled.suspects import SideQueues

            suspects = SideQueues(side_queues)
        held = SECONDS_HELD if self.program is None else SECONDS_FOR_CHILDREN
        names = ", ".join(line.queue for line in lines)
        return Dispatcher(self.client, names, self.workers, poll_timeout, suspects, held, reader)

    def _job(self, lines: Sequence[Line], dispatcher: Dispatcher) -> Job:
        lifecycle, first = self.lifecycle, lines[0]
        settler: AnySettler = first.settler
        consequences: AnyConsequences = first.consequences
        rule: AnyPoisonRule | None = first.rule
        if self.pool:
            from qbridge_core.work.pooled.settling import ConsequencesOfMany, Settlers
            from qbridge_core.work.pooled.suspects import PoisonRules

            settler = Settlers(_by_queue(lines, lambda line: line.settler))
            consequences = ConsequencesOfMany(_by_queue(lines, lambda line: line.consequences))
            rule = rule and PoisonRules(_by_queue(lines, lambda line: line.rule))
        return Job(
            self._executor(), dispatcher, settler, consequences, lifecycle, self._reader(),
            min(terms.timeout for terms in self.terms), self.longest_timeout,
            Abandoned(lifecycle, lifecycle.hears_abandonment or self.run_hooks is not None),
            self.run_hooks if self.program is None else None, rule,
        )  # fmt: skip

    @property
    def longest_timeout(self) -> float:
        """Seconds that no task may take more than."""
        return max(terms.timeout for terms in self.terms)

    def _reader(self) -> TaskReader:
        router = self.handler if isinstance(self.handler, Router) else None
        return TaskReader(self.rules.formats, router, self.terms[0], self.max_message_bytes, clock=self.client.clock)

    def _executor(self) -> Executor:
        if self.program is not None:
            from qbridge_core.execute.processes.children import ProcessExecutor

            return ProcessExecutor(self.program)
        if is_coroutine_function(self.handler):
            from qbridge_core.execute.coroutines import AsyncHandler

            return AsyncHandler(self.handler, self.workers, self.loop_factory, self.lifespan)
        return Executor(self.handler, self.interrupt, self.lifespan)

    def _declare_side_queue(self, queue: InputQueue) -> SideQueue | None:
        if not self.client.capabilities.crashes:
            return None
        rules, name = self.rules, suspects_queue(queue.name)
        side_queue = SideQueue(self.client, name, rules.max_crashes, in_children=rules.processes, slots=self.workers)
        self.client.declare(side_queue.queue, queue.dead_letter_queue)
        return side_queue

    def _isolation(self, line: Line, job: Job) -> Isolation | None:
        """What runs suspects in a child process, where that may be possible."""
        if line.side_queue is None or line.rule is None:
            return None
        if self.rules.processes or not can_be_isolated(self.handler, self.lifespan):
            return None
        return Isolation(
            line.side_queue, line.rule, line.settler, line.consequences, self.lifecycle, self.handler,
            job.reader, job.longest_timeout, self.workers, self.lifespan, self.run_hooks, self.rules.formats,
        )  # fmt: skip


def _by_queue(lines: Sequence[Line], part: Callable[[Line], Any]) -> dict[str, Any]:
    """A part of each line, by the names of its queue and of its side queue."""
    return {name: part(line) for line in lines for name in (line.queue, suspects_queue(line.queue))}
