"""What happened to tasks, told from the journal of the broker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from qbridge_core.backend import (
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    HISTORY,
    REASON,
    REPLAYS,
    AttemptOutcome,
    meta_text,
)
from qbridge_core.contract.history import read_history
from qbridge_memory.stored import Event
from qbridge_pytest.faults import Fault
from qbridge_pytest.reading import Reader
from qbridge_pytest.times import length, moment

What = Literal[
    "sent", "received", "succeeded", "retried", "snoozed", "handed back", "dead-lettered", "replayed", "crashed",
    "ack lost",
]  # fmt: skip
_MOST_OF_A_TASK: Final = 12
_MOST: Final = 60
"""So many lines are shown of a test that has failed; of the steps of a task the first and the last ones."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a task.

    Attributes:
        what: ``sent``; ``received`` by a worker; ``succeeded``; ``retried``: another attempt follows a failed one;
            ``snoozed``: it was put off, and no attempt counted; ``handed back``: it was not run; ``dead-lettered``;
            ``replayed``: sent back from a dead-letter queue; ``crashed``: its worker died, and it comes again;
            ``ack lost``: it has succeeded, and comes again.
        at: when (UTC).
        queue: where it came, or where it was; of a dead letter its dead-letter queue.
        delay: seconds until it may run.
        exception: the type of what its handler raised, and of a dead letter the text, too; or "".
        place: where in the handler's own code that was raised, as ``shop/mail.py:12 send``, or where its worker died;
            or "".
    """

    what: What
    at: datetime
    queue: str
    delay: float = 0.0
    exception: str = ""
    place: str = ""

    def __str__(self) -> str:
        text = f"{self.at:%Y-%m-%d %H:%M:%S}  {self.what}"
        if self.what in {"sent", "replayed", "dead-lettered"}:
            text += f" to {self.queue!r}"
        if self.delay:
            text += f", due in {length(self.delay)}"
        if self.exception:
            text += f": {self.exception}"
        if self.what == "crashed":
            return f"{text} {self.place}"
        return text + (f" at {self.place}" if self.place else "")


def steps_of(events: Iterable[Event | Fault], reader: Reader, task_id: str) -> list[Step]:
    """What happened to one task."""
    return _steps([event for event in list(events) if reader.task_id(event.queue, event.message) == task_id])


def told(events: Iterable[Event | Fault], reader: Reader) -> str:
    """What happened to all tasks, one after the other, as far as that is not too much; "" for nothing."""
    by_task: dict[str, list[Event | Fault]] = {}
    for event in list(events):
        by_task.setdefault(reader.task_id(event.queue, event.message), []).append(event)
    lines = [
        line
        for task_id, its_own in by_task.items()
        for line in (f"task {task_id or '(without id)'}", *_shortened([f"  {step}" for step in _steps(its_own)]))
    ]
    if len(lines) > _MOST:
        lines[_MOST:] = [f"(and {len(lines) - _MOST} lines more)"]
    return "\n".join(lines)


def _shortened(lines: list[str]) -> list[str]:
    half = _MOST_OF_A_TASK // 2
    if len(lines) <= _MOST_OF_A_TASK:
        return lines
    return [*lines[:half], f"  ({len(lines) - 2 * half} more)", *lines[-half:]]


def _steps(events: Iterable[Event | Fault]) -> list[Step]:
    """The steps of one task. A replay takes a letter as a worker would: that is no step of its own."""
    found: list[Event | Fault] = []
    replayed = 0
    for event in events:
        is_letter = REASON in event.message.meta
        if event.what == "put" and REPLAYS in event.message.meta and found and _is_taken_letter(found[-1]):
            found.pop()
            replayed += 1
        if event.what == "removed" and is_letter and replayed:
            replayed -= 1
        elif event.what == "given back" and found and found[-1].what in {"crashed", "ack lost"}:
            continue  # that is what it means
        else:
            found.append(event)
    return [_step(event) for event in found]


def _is_taken_letter(event: Event | Fault) -> bool:
    return event.what == "taken" and REASON in event.message.meta


def _step(event: Event | Fault) -> Step:
    at = moment(event.at)
    if isinstance(event, Fault):
        return Step(event.what, at, event.queue, place=event.place)
    if event.what == "moved":
        return _moved(event, at)
    if event.what == "put":
        what: What = "replayed" if REPLAYS in event.message.meta else "sent"
        if REASON in event.message.meta:
            what = "dead-lettered"  # it was brought as a letter
        return Step(what, at, event.queue, round(event.delay, 3))
    names: dict[str, What] = {"taken": "received", "removed": "succeeded", "given back": "handed back"}
    return Step(names[event.what], at, event.queue)


def _moved(event: Event, at: datetime) -> Step:
    meta = event.message.meta
    history = read_history(meta.get(HISTORY))
    last = history[-1] if history else None
    place = "" if last is None else last.place
    if REASON in meta:
        texts = [meta_text(meta, name) for name in (EXCEPTION_TYPE, EXCEPTION_MESSAGE)]
        why = ": ".join(text for text in texts if text) or meta_text(meta, REASON)
        return Step("dead-lettered", at, event.target, exception=why, place=place)
    snoozed = last is not None and last.outcome is AttemptOutcome.SNOOZED
    exception = "" if last is None else last.exception_type
    return Step("snoozed" if snoozed else "retried", at, event.target, round(event.delay, 3), exception, place)
