"""Reads the dead letters of a cell, and compares their content with what was published and done."""

from __future__ import annotations

from collections.abc import Iterable, Set

from chaos.history import Letter
from chaos.plan import WORKER_FAULTS, Fate, Plan, task_of
from chaos.publisher import message_for
from qbridge_core import DeadLetter, QueueClient, TransientError

_BATCH = 100


class Letters:
    """The dead letters of a cell. A broker that cannot list them hands them out, and those are kept here."""

    def __init__(self, client: QueueClient, dead_letter_queue: str, plan: Plan, queue: str) -> None:
        self._client = client
        self._where = dead_letter_queue
        self._plan = plan
        self._queue = queue
        self._taken: list[DeadLetter] = []

    def count(self) -> int:
        """How many there are, those that were taken among them; too few while the broker cannot say."""
        try:
            return len(self._taken) + self._client.stats(self._where).ready
        except TransientError:
            return 0

    def read(self, workers: Set[int]) -> list[Letter]:
        """What counts of each letter, which one of these worker processes wrote; none while the broker is away."""
        try:
            found = self._list()
        except TransientError:
            return []
        return [read(letter, self._plan, self._queue, workers) for letter in found]

    def _list(self) -> list[DeadLetter]:
        if self._client.capabilities.browse:
            return self._client.dead_letters(self._where, limit=2 * len(self._plan.fates))
        while batch := self._client.receive(self._where, _BATCH, 1.0):
            for each in batch:
                self._taken.append(DeadLetter.from_headers(each.body, each.headers, each.meta))
                self._client.ack(each)
        self._client.flush()
        return self._taken


def read(letter: DeadLetter, plan: Plan, queue: str, workers: Set[int]) -> Letter:
    """What counts of a letter of the queue, which one of these worker processes wrote."""
    known = task_of(letter.task_id) in plan.fates
    defects = tuple(_defects(letter, plan, queue, workers)) if known else ()
    return Letter(letter.task_id, letter.reason.value, letter.attempts, defects)


def _defects(letter: DeadLetter, plan: Plan, queue: str, workers: Set[int]) -> Iterable[str]:
    if letter.body != message_for(plan, letter.task_id).body:
        yield "its dead letter has another body"
    if letter.headers:
        yield f"its dead letter has headers: {letter.headers}"
    if letter.source_queue != queue:
        yield f"its dead letter says that it comes from '{letter.source_queue}'"
    if letter.worker.rpartition(":")[2] not in map(str, workers):
        yield f"its dead letter was written by '{letter.worker}'"
    if not 0 < (letter.first_failed_at or 0) <= (letter.last_failed_at or 0):
        yield f"its dead letter failed from {letter.first_failed_at} to {letter.last_failed_at}"
    if letter.crashes and not any(strike.fault in WORKER_FAULTS for strike in plan.strikes):
        yield f"its dead letter counts {letter.crashes} crashes, and no worker was killed"
    if plan.fates[task_of(letter.task_id)] is Fate.FAILS:
        yield from _wrong_exception(letter)


def _wrong_exception(letter: DeadLetter) -> Iterable[str]:
    if (letter.exception_type, letter.exception_message) != ("ValueError", "as planned"):
        yield f"its dead letter tells of {letter.exception_type}: {letter.exception_message}"
    if "ValueError: as planned" not in letter.traceback:
        yield "its dead letter has no traceback of the failure"
