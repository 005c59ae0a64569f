"""Carries out a soak: a broker, a worker process, a publisher process, and an eye on the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.plan import Backend
from chaos.targets import broker_of
from qbridge_core import QueueClient, connect
from qbridge_core.contract.names import suspects_queue
from soak import publisher_program, worker_program
from soak.journal import JournalWriter, Tally, ended_runs
from soak.judge import Letter, Remains, Sample, growth_problems, remains_problems, run_problems
from soak.plan import Plan
from support.brokers import Broker, start_new

QUEUE: Final = "soak"
DEAD: Final = "soak.dead"
_TESTS: Final = Path(__file__).parents[1]
_SAMPLE_EVERY: Final = 0.02
_SAMPLE_SHARE: Final = 2e-7  # seconds for each run: a short soak needs its samples too
_SAY_EVERY: Final = 10.0
# So long without a single run, and it is not slow but stuck.
_STALL: Final = 120.0
_STOP_TIMEOUT: Final = 60.0
_COUNTING: Final = 20.0  # RabbitMQ counts the messages of a quorum queue every few seconds only
_OPTIONS: Final = {Backend.CLASSIC: "?queue_type=classic"}
Say = Callable[[str], None]


class SoakError(Exception):
    """A process ended, or nothing went on any more."""


@dataclass
class Outcome:
    """A soak that was carried out.

    Attributes:
        problems: what is wrong; empty when everything held.
        seconds: from the first task to the last.
        broker: what was used.
    """

    plan: Plan
    broker: str
    samples: list[Sample] = field(default_factory=list)
    remains: Remains = field(default_factory=Remains)
    problems: list[str] = field(default_factory=list)
    runs: int = 0
    seconds: float = 0.0


def soak_privately(plan: Plan, backend: Backend, directory: Path, say: Say = print) -> Outcome:
    """Soak on a server that nobody else uses; it is started and ended here."""
    broker = start_new(broker_of(backend), directory / "broker")
    try:
        url = broker.url + _OPTIONS.get(backend, "")
        return _soak(plan, url, QUEUE, DEAD, directory, backend.value, broker, say)
    finally:
        broker.close()


def soak_at(plan: Plan, url: str, name: str, directory: Path, say: Say = print) -> Outcome:
    """Soak on a server that runs, with queues of this name, which must be new; they stay there, empty."""
    return _soak(plan, url, name, f"{name}.dead", directory, url.partition(":")[0], None, say)


def _soak(
    plan: Plan, url: str, queue: str, dead: str, directory: Path, label: str, broker: Broker | None, say: Say
) -> Outcome:
    directory.mkdir(parents=True, exist_ok=True)
    journal = directory / "journal"
    JournalWriter(str(journal))
    outcome, tally = Outcome(plan, label), Tally(journal, plan.count)
    publishing = publisher_program.Settings(url, queue, str(journal), plan.count, plan.backlog, plan.padding)
    working = worker_program.Settings(url, queue, dead, str(journal), plan.threads, plan.leak)
    with connect(url) as client:
        client.declare(queue, dead)
        try:
            with (
                _program("worker", working.dump(), directory) as worker,
                _program("publisher", publishing.dump(), directory) as publisher,
            ):
                _watch(outcome, tally, worker, publisher, lambda: _is_empty(client, queue), say)
                _stop(worker)
        except SoakError as exc:
            outcome.problems.append(f"STUCK: {exc}; logs: {directory}")
        outcome.remains = _remains(client, broker, queue, dead)
        if broker is None:
            client.purge(dead)
    tally.read()
    outcome.runs = tally.runs
    outcome.problems += [
        *growth_problems(outcome.samples),
        *run_problems(plan, tally),
        *remains_problems(plan, outcome.remains, dead),
    ]
    return outcome


@contextmanager
def _program(name: str, settings: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"soak.{name}_program", settings],
            stdin=subprocess.PIPE,  # never written to; its end tells the process that we are gone
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
        )
    try:
        yield process
    finally:
        process.kill()  # does nothing to one that has ended
        process.communicate()


def _watch(
    outcome: Outcome,
    tally: Tally,
    worker: subprocess.Popen[bytes],
    publisher: subprocess.Popen[bytes],
    is_empty: Callable[[], bool],
    say: Say,
) -> None:
    """Sample the worker until all runs have ended and the broker holds nothing of them."""
    expected, ended = outcome.plan.runs, 0
    began = moved = said = time.monotonic()
    while not (ended >= expected and is_empty()):
        time.sleep(min(_SAMPLE_EVERY, expected * _SAMPLE_SHARE))
        now = time.monotonic()
        if worker.poll() is not None or publisher.poll():
            raise SoakError(f"a process ended: worker {worker.poll()}, publisher {publisher.poll()}")
        before, ended = ended, ended_runs(tally.path)
        if ended == 0:
            began = now
        if ended != before:
            moved = now
            outcome.samples.append(_sample(worker.pid, ended / expected))
        if now - moved > _STALL:
            raise SoakError(f"no run for {_STALL:.0f} s; {ended:,} of {expected:,} have ended")
        outcome.seconds = moved - began
        if now - said > _SAY_EVERY:
            said = now
            say(f"{ended:,} of {expected:,} runs, worker {outcome.samples[-1].memory / 2**20:.1f} MiB")


def _sample(pid: int, progress: float) -> Sample:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    count = {what: len(os.listdir(process / what)) for what in ("fd", "task")}
    return Sample(progress, pages * os.sysconf("SC_PAGE_SIZE"), count["fd"], count["task"])


def _is_empty(client: QueueClient, queue: str) -> bool:
    stats = client.stats(queue)
    return not (stats.ready + stats.in_flight + stats.delayed)


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    try:
        status = worker.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SoakError("the worker did not end after a SIGTERM") from None
    if status:
        raise SoakError(f"the worker ended with status {status} after a SIGTERM")


def _remains(client: QueueClient, broker: Broker | None, queue: str, dead: str) -> Remains:
    letters = client.dead_letters(dead, limit=1_000_000)
    messages = {}
    for name in (queue, suspects_queue(queue), dead):
        stats = client.stats(name)
        messages[name] = stats.ready + stats.in_flight + stats.delayed
    seen = _seen_by(broker, {dead: len(letters)}) if broker else {}
    return Remains(
        [Letter(letter.task_id, letter.reason.value, letter.attempts) for letter in letters],
        messages | seen,
        [name for name in seen if not _is_declared(name, set(messages))],
    )


def _is_declared(name: str, queues: set[str]) -> bool:
    """Whether it is one of the queues, holds delayed messages of one, or tells workers on RabbitMQ of pauses."""
    return name in {*queues, "qbridge.pauses"} or any(
        name.startswith((f"{queue}.qb.delay.", f"{queue}:delayed")) for queue in queues
    )


def _seen_by(broker: Broker, expected: dict[str, int]) -> dict[str, int]:
    """Everything on the server and how much it holds; counted again while that is not what is expected."""
    deadline = time.monotonic() + _COUNTING
    while True:
        seen = broker.contents()
        if {name: count for name, count in seen.items() if count} == expected or time.monotonic() > deadline:
            return seen
        time.sleep(1.0)
