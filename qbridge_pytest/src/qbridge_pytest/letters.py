"""The dead letters of a test: which there are, and which it has expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qbridge_core import DeadLetter
from qbridge_core.backend import REASON
from qbridge_memory import MemoryClient
from qbridge_memory.stored import Event
from qbridge_pytest.faults import Fault

_ALL: Final = 1_000_000
_SHOWN: Final = 5


class Letters:
    """What stands in dead-letter queues.

    Args:
        client: has the broker.
        events: all that has happened there.
    """

    def __init__(self, client: MemoryClient, events: Sequence[Event | Fault]) -> None:
        self._client = client
        self._events = events
        self._expected: set[tuple[str, str]] = set()
        self._allowed: set[str] = set()
        self._allows_all = False

    def of(self, queue: str) -> list[DeadLetter]:
        """Those that came from a queue, or stand in it; they are expected from now on."""
        found = [(place, letter) for place, letter in self._all() if queue in (place, letter.source_queue)]
        self._expected.update((place, letter.id) for place, letter in found)
        return [letter for _, letter in found]

    def allow(self, queues: Sequence[str]) -> None:
        """Expect all of these queues; of any without one."""
        self._allows_all = self._allows_all or not queues
        self._allowed.update(queues)

    def unexpected(self) -> str:
        """What is to be said of those that nobody has expected; "" for none."""
        if self._allows_all:
            return ""
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
        return (place, letter.id) in self._expected or not self._allowed.isdisjoint((place, letter.source_queue))

    def _all(self) -> Iterator[tuple[str, DeadLetter]]:
        places = dict.fromkeys(event.target or event.queue for event in self._events if REASON in event.message.meta)
        for place in places:
            for letter in self._client.dead_letters(place, _ALL):
                if letter.source_queue:  # anything else was sent there
                    yield place, letter


def told(letter: DeadLetter) -> str:
    """A letter with its traceback."""
    after = f" after {letter.attempts} attempts" if letter.attempts > 1 else ""
    why = ": ".join(text for text in (letter.exception_type, letter.exception_message) if text)
    first = f"task {letter.task_id} of {letter.source_queue!r}: {letter.reason.value}{after}" + (
        f": {why}" if why else ""
    )
    return f"{first}\n{letter.traceback}".rstrip()
