"""The dead letters of a test: which there are, and which it has expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from qbridge_core import AppTask, DeadLetter
from qbridge_core.backend import REASON
from qbridge_memory import MemoryClient
from qbridge_memory.stored import Event, StoredMessage
from qbridge_pytest.faults import Fault
from qbridge_pytest.whose import Owners

_ALL: Final = 1_000_000
_SHOWN: Final = 5
_Meant = Callable[[str, DeadLetter], bool]
"""Of the queue in which a letter stands, and the letter."""


class Letters:
    """What stands in dead-letter queues.

    Args:
        client: has the broker.
        events: all that has happened there.
        owners: tells of which task a letter is.
    """

    def __init__(self, client: MemoryClient, events: Sequence[Event | Fault], owners: Owners) -> None:
        self._client = client
        self._events = events
        self._owners = owners
        self._expected: set[tuple[str, str]] = set()
        self._allowed: list[_Meant] = []

    def of(self, where: str | AppTask[Any]) -> list[DeadLetter]:
        """Those that came from a queue, or stand in it, or of a task; they are expected from now on."""
        is_meant = self._meant(where)
        found = [(place, letter) for place, letter in self._all() if is_meant(place, letter)]
        self._expected.update((place, letter.id) for place, letter in found)
        return [letter for _, letter in found]

    def allow(self, places: Sequence[str | AppTask[Any]]) -> None:
        """Expect all of these queues or tasks; of any without one."""
        self._allowed += [self._meant(where) for where in places] or [lambda _place, _letter: True]

    def unexpected(self) -> str:
        """What is to be said of those that nobody has expected; "" for none."""
        found = [letter for place, letter in self._all() if not self._is_expected(place, letter)]
        if not found:
            return ""
        first = found[0].source_queue
        count = "one dead letter" if len(found) == 1 else f"{len(found)} dead letters"
        advice = (
            f"this test has {count} that it did not expect; a test that does looks at them with "
            f"qbridge.letters({first!r}), or lets them be with qbridge.allow_letters({first!r})"
        )
        texts = [advice, *(told(letter) for letter in found[:_SHOWN])]
        if len(found) > _SHOWN:
            texts.append(f"(and {len(found) - _SHOWN} more)")
        return "\n\n".join(texts)

    def _is_expected(self, place: str, letter: DeadLetter) -> bool:
        return (place, letter.id) in self._expected or any(is_meant(place, letter) for is_meant in self._allowed)

    def _meant(self, where: str | AppTask[Any]) -> _Meant:
        if isinstance(where, str):
            return lambda place, letter: where in (place, letter.source_queue)
        has = self._owners.of(where).has
        return lambda _, letter: has(letter.source_queue, _message_of(letter))

    def _all(self) -> Iterator[tuple[str, DeadLetter]]:
        places = dict.fromkeys(event.target or event.queue for event in self._events if REASON in event.message.meta)
        for place in places:
            for letter in self._client.dead_letters(place, _ALL):
                if letter.source_queue:  # anything else was sent there
                    yield place, letter


def _message_of(letter: DeadLetter) -> StoredMessage:
    return StoredMessage(letter.body, letter.headers, letter.message_id, {})


def told(letter: DeadLetter) -> str:
    """A letter with its traceback."""
    after = f" after {letter.attempts} attempts" if letter.attempts > 1 else ""
    why = ": ".join(text for text in (letter.exception_type, letter.exception_message) if text)
    first = f"task {letter.task_id} of {letter.source_queue!r}: {letter.reason.value}{after}" + (
        f": {why}" if why else ""
    )
    return f"{first}\n{letter.traceback}".rstrip()
