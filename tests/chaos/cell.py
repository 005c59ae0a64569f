"""Carries out one plan: a broker of its own, a worker, a publisher, faults; then it looks at what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chaos.checker import Verdict, check
from chaos.faults import Victims, strike
from chaos.history import History, Journal, Letter, Period
from chaos.letters import Letters
from chaos.plan import MAX_CRASHES, MAX_RETRIES, Fate, Plan, Strike, task_of
from chaos.publisher import Background, Publisher, copy_of
from chaos.supervisor import Supervisor
from chaos.targets import TARGETS, broker_of
from chaos.worker_program import Settings
from qbridge_core import QueueClient, TransientError, connect
from support.brokers import Broker, start_new
from support.proxy import TCPProxy

QUEUE = "chaos"
DEAD = "chaos-dead"  # a name that every broker can have
SUSPECTS = f"{QUEUE}.suspects"
# RabbitMQ 3.10 does not recover a quorum queue that is killed in its first second.
_AGE_OF_QUEUES = 5.0
_POLL = 0.05
_WITH_FAULT = 6  # one message of so many is sent from the beginning of a fault on
_COUNTING = 20.0  # RabbitMQ counts the messages of a quorum queue every few seconds only
_FETCHING = 30.0
_COUNT_POLL = 2.0  # and asking it takes a process that is busy for a second
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """A cell that was carried out."""

    plan: Plan
    history: History
    letters: Sequence[Letter]
    verdict: Verdict


def run_cell(plan: Plan, directory: Path, say: Say = lambda text: None) -> Outcome:
    """Carry out a plan on a new broker whose files are below the directory, and judge it."""
    directory.mkdir(parents=True, exist_ok=True)
    broker = start_new(broker_of(plan.backend), directory / "broker")
    try:
        return run_cell_on(broker, plan, directory, say)
    finally:
        broker.close()


def run_cell_on(broker: Broker, plan: Plan, directory: Path, say: Say = lambda text: None) -> Outcome:
    """Carry out a plan on a broker that is started and that nobody else uses."""
    url_of = TARGETS[plan.backend].url
    with TCPProxy.to(broker.url) as proxy, connect(url_of(broker.url)) as direct:
        prepare(direct, plan)
        with connect(url_of(proxy.through(broker.url))) as client:
            cell = _Cell(plan, broker, proxy, direct, Publisher(client, QUEUE, plan), directory, say)
            history, dead = cell.run()
    return Outcome(plan, history, dead, check(plan, history, dead))


def prepare(client: QueueClient, plan: Plan) -> None:
    """Declare every queue that there will be, so that none is too young when the broker is killed."""
    client.declare(QUEUE, DEAD)
    if client.capabilities.crashes:
        client.declare(SUSPECTS, DEAD)
    if plan.backoff:
        # What holds the delays of a queue is made when it is first needed.
        client.send(QUEUE, {}, delay=plan.backoff)
    declared = time.monotonic()
    _until(lambda: time.monotonic() > declared + plan.backoff + _AGE_OF_QUEUES, plan.backoff + _AGE_OF_QUEUES + 1)
    if client.stats(QUEUE).delayed:  # in a queue from which consumers fetch what is due
        client.ack(client.receive(QUEUE, 1, _FETCHING)[0])
        client.flush()
        client.unsubscribe(QUEUE)
    client.purge(QUEUE)


def _until(condition: Callable[[], bool], seconds: float, poll: float = _POLL) -> bool:
    """Wait for the condition; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True


class _Cell:
    """One plan while it is carried out."""

    def __init__(
        self,
        plan: Plan,
        broker: Broker,
        proxy: TCPProxy,
        direct: QueueClient,
        publisher: Publisher,
        directory: Path,
        say: Say,
    ) -> None:
        self._plan = plan
        self._broker = broker
        self._proxy = proxy
        self._direct = direct
        self._publisher = publisher
        self._say = say
        self._journal = Journal(directory / "journal")
        self._letters = Letters(direct, DEAD, plan, QUEUE)
        self._log = directory / "worker.log"
        self._overdue = ""
        self._stuck: frozenset[str] = frozenset()

    def run(self) -> tuple[History, list[Letter]]:
        """Do everything; return what was seen."""
        first, *others = self._plan.portions()
        self._publisher.publish_all(first, time.monotonic() + self._plan.bound)
        with self._supervised() as supervisor:
            _until(self._is_going, 60)
            began = time.monotonic()
            faults = self._strike_all(supervisor, others)
            self._wait_for_the_end(supervisor)
            ended = time.monotonic()
            supervisor.stop()
        self._journal.read()
        return History(
            runs=self._journal.runs,
            copies=self._publisher.copies,
            kills=supervisor.kills,
            stops=supervisor.stops,
            exits=supervisor.exits,
            faults=faults,
            stuck=self._stuck,
            overdue=self._overdue,
            residue=self._residue(),
            leftovers=self._leftovers(),
            seconds=ended - began,
            settling=self._plan.backend.settling,
        ), self._read_letters()

    @contextmanager
    def _supervised(self) -> Iterator[Supervisor]:
        settings = Settings(
            url=TARGETS[self._plan.backend].url(self._proxy.through(self._broker.url)),
            queue=QUEUE,
            dead_letter_queue=DEAD,
            journal=str(self._journal.path),
            threads=self._plan.threads,
            max_retries=MAX_RETRIES,
            max_crashes=MAX_CRASHES,
            backoff=self._plan.backoff,
        )
        supervisor = Supervisor(settings.dump(), self._log)
        try:
            yield supervisor
        finally:
            supervisor.close()

    def _is_going(self) -> bool:
        self._journal.read()
        return bool(self._journal.runs)

    def _strike_all(self, supervisor: Supervisor, portions: Sequence[Sequence[str]]) -> list[Period]:
        """Make one fault after another; meanwhile the publisher goes on."""
        victims = Victims(self._broker, self._proxy, supervisor, lambda: self._is_working(supervisor))
        return [self._strike(victims, *each) for each in zip(self._plan.strikes, portions, strict=True)]

    def _strike(self, victims: Victims, what: Strike, ids: Sequence[str]) -> Period:
        deadline = time.monotonic() + what.after + what.lasts + self._plan.bound
        # Most of them at once, for the fault must find work to do; the others meet the fault.
        few = len(ids) // _WITH_FAULT
        self._publisher.publish_all(ids[few:], deadline)
        _until(lambda: len(self._backlog()) < few, what.after)
        sending = Background(self._publisher, ids[:few], deadline)
        backlog = len(self._backlog())
        self._say(str(what))
        began = time.monotonic()
        strike(victims, what)
        ended = time.monotonic()
        sending.join()
        return Period(what.fault, str(what), began, ended, backlog)

    def _backlog(self) -> set[str]:
        return self._publisher.confirmed & self._to_do()

    def _is_working(self, supervisor: Supervisor) -> bool:
        self._journal.read()
        return any(run.pid == supervisor.pid for run in self._journal.runs[-100:])

    def _wait_for_the_end(self, supervisor: Supervisor) -> None:
        """Wait until everything is as planned; when it takes too long, look whether a restart by hand helps."""
        # The second condition takes a process of the broker's own tool each time, so the first one is waited for first.
        if _until(self._is_over, self._plan.bound) and _until(self._is_settled, self._plan.bound, poll=_COUNT_POLL):
            return
        self._stuck = frozenset(self._to_do() | self._without_letter())
        self._overdue = f"{len(self._stuck)} tasks are not finished; messages: {self._everything_left()}"
        self._say(f"overdue: {self._overdue}")
        supervisor.terminate()
        _until(self._is_over, 60)

    def _to_do(self) -> set[str]:
        """The confirmed messages that have not succeeded yet and should."""
        self._journal.read()
        return self._expected(lambda fate: fate.good_runs) - self._journal.done

    def _expected(self, how_often: Callable[[Fate], int]) -> set[str]:
        confirmed = self._publisher.confirmed.copy()  # the publisher may be at work
        return {name for name in confirmed if how_often(self._plan.fates[task_of(name)])}

    def _without_letter(self) -> set[str]:
        """The messages that should be in the dead-letter queue and are not."""
        return self._expected(lambda fate: fate.letters) - {letter.name for letter in self._read_letters()}

    def _is_over(self) -> bool:
        expected = sum(fate.letters for fate in self._plan.fates.values())
        return not self._to_do() and self._letters.count() >= expected and self._is_empty()

    def _read_letters(self) -> list[Letter]:
        return self._letters.read({run.pid for run in self._journal.runs})

    def _counts(self) -> dict[str, int]:
        """Messages of each queue but the dead-letter queue; -1 while the broker cannot say."""
        counts = {}
        for queue in (QUEUE, SUSPECTS):
            try:
                stats = self._direct.stats(queue)
            except TransientError:
                counts[queue] = -1
            else:
                counts[queue] = stats.ready + stats.in_flight + stats.delayed
        return counts

    def _is_empty(self) -> bool:
        return not any(self._counts().values())

    def _is_settled(self) -> bool:
        return not any(self._everything_left().values())

    def _residue(self) -> dict[str, int]:
        """What is left when the worker has ended, and dead letters that cannot be listed."""
        _until(self._is_settled, _COUNTING, poll=_COUNT_POLL)
        read = len(self._read_letters())
        return self._everything_left() | {f"{DEAD} that are not listed": abs(self._letters.count() - read)}

    def _leftovers(self) -> frozenset[str]:
        """The messages that are left in the input queue, or some of them."""
        with suppress(TransientError):
            return frozenset(map(copy_of, self._direct.receive(QUEUE, 100, 0.0)))
        return frozenset()

    def _everything_left(self) -> dict[str, int]:
        """Messages of each queue but the dead-letter queue, as client and broker count them."""
        left = self._counts() | self._broker.contents()
        left.pop(DEAD, None)
        return left
