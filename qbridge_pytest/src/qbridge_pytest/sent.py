"""What was sent, and the texts that say that it was not what a test wanted."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from qbridge_core.backend import REASON, REPLAYS
from qbridge_memory.stored import Event
from qbridge_pytest.differences import Difference, differences, shown
from qbridge_pytest.faults import Fault
from qbridge_pytest.reading import Reader, name_of
from qbridge_pytest.times import moment

ANYTHING: Final = object()
_NEAREST: Final = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that somebody has sent.

    Attributes:
        queue: where to.
        payload: as JSON says it; ``None`` also for what is no task.
        headers: the producer's own.
        delay: seconds for which it was held back, to the millisecond.
        task: the name of its task, where the queue has several kinds.
        task_id: the id of its task, or else of the message.
        sent_at: when (UTC).
        body: its bytes.
    """

    queue: str
    payload: Any
    headers: Mapping[str, Any]
    delay: float
    task: str | None
    task_id: str
    sent_at: datetime
    body: bytes = field(repr=False)

    def differences(self, wanted: Mapping[str, object]) -> list[Difference]:
        """Where its attributes are not as wanted."""
        return [each for name, value in wanted.items() for each in differences(name, value, getattr(self, name))]


def is_sent(event: Event) -> bool:
    """Whether somebody has sent this message, and not put it back or brought it as a letter."""
    meta = event.message.meta
    return event.what == "put" and REPLAYS not in meta and REASON not in meta


def sent_in(events: Iterable[Event | Fault], reader: Reader) -> list[Sent]:
    """What was sent, in its order."""
    return [_sent(event, reader) for event in list(events) if isinstance(event, Event) and is_sent(event)]


def no_match(where: str, wanted: Mapping[str, object], there: Sequence[Sent]) -> str:
    """Says that nothing is as wanted, and what comes nearest."""
    if not there:
        return f"nothing was sent to {where}"
    nearest = sorted(there, key=lambda each: len(each.differences(wanted)))[:_NEAREST]
    count = "one message was" if len(there) == 1 else f"{len(there)} messages were"
    lines = [f"nothing like this was sent to {where}:", *_listed(wanted), f"{count} sent there; the nearest:"]
    for each in nearest:
        lines.append(f"  {_named(each)}")
        lines += [f"    {difference}" for difference in each.differences(wanted)]
    return "\n".join(lines)


def unwanted(where: str, wanted: Mapping[str, object], found: Sequence[Sent]) -> str:
    """Says that there is what should not be."""
    count = "one message like this was" if len(found) == 1 else f"{len(found)} messages like this were"
    lines = [f"{count} sent to {where}:", *_listed(wanted), "namely:"]
    return "\n".join([*lines, *(f"  {_named(each)}" for each in found[:_NEAREST])])


def _sent(event: Event, reader: Reader) -> Sent:
    task = reader.task(event.queue, event.message)
    return Sent(
        queue=event.queue,
        payload=None if task is None else task.payload,
        headers=dict(event.message.headers),
        delay=round(event.delay, 3),
        task=None if task is None else name_of(task),
        task_id=reader.task_id(event.queue, event.message),
        sent_at=moment(event.at),
        body=event.message.body,
    )


def _listed(wanted: Mapping[str, object]) -> list[str]:
    return [f"    {name}: {shown(value)}" for name, value in wanted.items()] or ["    (anything)"]


def _named(sent: Sent) -> str:
    told = [f"payload {shown(sent.payload)}"]
    if sent.headers:
        told.append(f"headers {shown(sent.headers)}")
    if sent.delay:
        told.append(f"delay {sent.delay:g} s")
    return textwrap.shorten(f"task {sent.task_id}: {', '.join(told)}", 400, placeholder=" …")
