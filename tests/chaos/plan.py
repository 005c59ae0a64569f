"""What a cell will do, drawn from a seed: the same seed gives the same tasks, the same faults and the same moments."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_RETRIES: Final = 3
# A worker is killed by the plan and not by its tasks, so a task that was hit more than once is no suspect.
MAX_CRASHES: Final = 1_000


class Backend(StrEnum):
    """What is tested."""

    QUORUM = "rabbitmq-quorum"
    CLASSIC = "rabbitmq-classic"
    REDIS = "redis"
    KOMBU_AMQP = "kombu+amqp"
    """On RabbitMQ, quorum queues."""
    KOMBU_SQS = "kombu+sqs"
    """On moto's server, which forgets everything when it ends."""

    @property
    def slowness(self) -> float:
        """How many times longer than the tasks themselves the work may take on a machine that is busy.

        kombu's brokers hand out one message in a round trip, or ten.
        """
        return 25.0 if self.is_a_bridge else 5.0

    @property
    def is_a_bridge(self) -> bool:
        """Whether it is one of kombu's: of two copies that a lost confirmation has made, a living worker runs both."""
        return self in (Backend.KOMBU_AMQP, Backend.KOMBU_SQS)

    @property
    def settling(self) -> float:
        """How many seconds the outcome of a run may be on its way to the broker.

        SQS takes ten acknowledgements in a request, one request after the other: there the time bounds what a kill
        repeats, and elsewhere the number of tasks that run as well.
        """
        return 3.0 if self is Backend.KOMBU_SQS else 0.5

    @property
    def doubles_copies(self) -> bool:
        """Whether a copy (a retry, a dead letter) may be there twice after its confirmation was lost.

        On Redis the copy and the end of the original are one step, which can be repeated.
        """
        return self is not Backend.REDIS


class Fault(StrEnum):
    """What goes wrong."""

    CUT = "connection cut"
    HALF_OPEN = "half-open connection"
    BROKER_KILL = "broker kill -9"
    BROKER_RESTART = "broker restart"
    WORKER_TERM = "worker SIGTERM"
    WORKER_KILL = "worker SIGKILL"
    ALARM = "memory alarm"
    FREEZE = "broker SIGSTOP"


MIXED: Final = "mixed"
DELAYED: Final = "delayed retries"
"""Retries with a delay while the broker is killed; apart, for RabbitMQ may hold such a message for 180 s."""
SCENARIOS: Final = (*(fault.value for fault in Fault), MIXED, DELAYED)

NETWORK_FAULTS: Final = (Fault.CUT, Fault.HALF_OPEN)
BROKER_FAULTS: Final = (Fault.BROKER_KILL, Fault.BROKER_RESTART, Fault.ALARM, Fault.FREEZE)
WORKER_FAULTS: Final = (Fault.WORKER_TERM, Fault.WORKER_KILL)
_FORGETFUL: Final = (*NETWORK_FAULTS, Fault.FREEZE, *WORKER_FAULTS)
"""The faults that a server survives which keeps everything in memory."""


def faults_of(backend: Backend) -> tuple[Fault, ...]:
    """The faults that a backend's server is put to; a frozen one is what a silent connection is to the others."""
    if backend is Backend.KOMBU_SQS:
        return _FORGETFUL
    return tuple(fault for fault in Fault if fault is not Fault.FREEZE)


def scenarios_of(backend: Backend) -> tuple[str, ...]:
    """Those of `SCENARIOS` that there are for a backend."""
    faults = faults_of(backend)
    delayed = (DELAYED,) if Fault.BROKER_KILL in faults else ()
    return (*(fault.value for fault in faults), MIXED, *delayed)


class Fate(StrEnum):
    """What must become of a task."""

    SUCCEEDS = "succeeds"
    RECOVERS = "fails twice, then succeeds"
    FAILS = "always fails"
    MALFORMED = "is no task"

    @property
    def failed_runs(self) -> int:
        """How many runs of it fail."""
        return {Fate.RECOVERS: 2, Fate.FAILS: MAX_RETRIES + 1}.get(self, 0)

    @property
    def good_runs(self) -> int:
        """How many runs of it succeed."""
        return int(self in (Fate.SUCCEEDS, Fate.RECOVERS))

    @property
    def letters(self) -> int:
        """How many dead letters it leaves."""
        return 1 - self.good_runs


class Sent(StrEnum):
    """What the broker said to a message that was published."""

    CONFIRMED = "confirmed"
    UNKNOWN = "no confirmation"
    """It may be there, and was published once more as another copy."""
    REFUSED = "refused"
    """The publisher was told that the broker does not have it."""


def copy_name(task_id: str, number: int) -> str:
    """The name of one of the messages that were published for a task; see :mod:`chaos.publisher`."""
    return f"{task_id}.{number}"


def task_of(name: str) -> str:
    """The task of a copy."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class Strike:
    """One fault of a plan.

    Attributes:
        fault: its kind.
        after: seconds of undisturbed work before it, counted from the end of the one before.
        lasts: seconds for which it goes on, where it is not an instant; 0 for the shortest possible.
    """

    fault: Fault
    after: float
    lasts: float

    def __str__(self) -> str:
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"after {self.after:.1f} s {self.fault}{lasts}"


@dataclass(frozen=True)
class Size:
    """How much a cell has to do.

    Attributes:
        tasks: how many tasks.
        task_seconds: how long a run takes.
        threads: of the worker.
        strikes: how many faults, unless the scenario says which.
        brief: faults that last a moment only, for a test that must not take long.
    """

    tasks: int = 5_000
    task_seconds: float = 0.02
    threads: int = 10
    strikes: int = 3
    brief: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that a cell will do.

    Attributes:
        seed: what it was drawn from.
        backend: what is tested.
        scenario: one of `SCENARIOS`.
        size: what it was drawn for.
        fates: the tasks by id, in the order in which they are published.
        strikes: the faults in their order.
        task_seconds: how long a run takes.
        threads: of the worker.
        backoff: seconds before a retry.
        bound: seconds after the last fault within which everything must be over.
    """

    seed: int
    backend: Backend
    scenario: str
    size: Size
    fates: Mapping[str, Fate]
    strikes: Sequence[Strike]
    task_seconds: float
    threads: int
    backoff: float
    bound: float

    def portions(self) -> list[list[str]]:
        """The ids that are published before the work begins, and those that are published with each fault."""
        ids = list(self.fates)
        count = len(self.strikes) + 1
        return [ids[part * len(ids) // count : (part + 1) * len(ids) // count] for part in range(count)]


def make_plan(seed: int, backend: Backend, scenario: str, size: Size) -> Plan:
    """Draw the plan of one cell."""
    # Each cell has a generator of its own, so that one cell alone repeats what it did within the table.
    rng = random.Random(f"{seed} {backend} {scenario} {size}")
    faults = _faults(rng, scenario, size, faults_of(backend))
    return Plan(
        seed=seed,
        backend=backend,
        scenario=scenario,
        size=size,
        fates=_fates(rng, size.tasks),
        strikes=_strikes(rng, faults, size),
        task_seconds=size.task_seconds,
        threads=size.threads,
        backoff=1.0 if scenario == DELAYED else 0.0,
        # 180 s: see DELAYED. Otherwise there is the work, and what a loaded machine needs to reconnect.
        bound=(300.0 if scenario == DELAYED else 90.0)
        + backend.slowness * size.tasks * size.task_seconds / size.threads,
    )


def _faults(rng: random.Random, scenario: str, size: Size, possible: Sequence[Fault]) -> list[Fault]:
    if scenario == DELAYED:
        return [Fault.BROKER_KILL] * size.strikes
    if scenario != MIXED:
        return [Fault(scenario)] * size.strikes
    if size.brief:
        kinds = (NETWORK_FAULTS, BROKER_FAULTS, WORKER_FAULTS)
        faults = [rng.choice([fault for fault in kind if fault in possible]) for kind in kinds]
    else:
        faults = list(possible)
    rng.shuffle(faults)
    return faults


def _strikes(rng: random.Random, faults: Sequence[Fault], size: Size) -> list[Strike]:
    portion = size.tasks * size.task_seconds / size.threads / (len(faults) + 1)
    strikes = []
    for position, fault in enumerate(faults):
        # The first of several silences is longer than any watchdog's patience, so that both kinds are seen.
        long_silence = fault is Fault.HALF_OPEN and position == 0 and not size.brief
        lasts = rng.uniform(15.0, 20.0) if long_silence else _duration(rng, fault)
        strikes.append(Strike(fault, rng.uniform(0.3, 0.9) * portion, lasts))
    return strikes


def _duration(rng: random.Random, fault: Fault) -> float:
    if fault in WORKER_FAULTS or rng.random() < 0.3:
        return 0.0
    longest = {Fault.HALF_OPEN: 4.0, Fault.ALARM: 4.0, Fault.FREEZE: 6.0, Fault.CUT: 1.0}.get(fault, 2.0)
    return rng.uniform(0.1, longest)


def _fates(rng: random.Random, tasks: int) -> dict[str, Fate]:
    some = max(2, tasks // 100)
    bad = [Fate.FAILS] * some + [Fate.RECOVERS] * some + [Fate.MALFORMED] * max(2, some // 5)
    fates = bad + [Fate.SUCCEEDS] * (tasks - len(bad))
    rng.shuffle(fates)
    return {f"{number:06d}": fate for number, fate in enumerate(fates)}
