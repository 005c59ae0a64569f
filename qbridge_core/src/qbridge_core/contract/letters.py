"""Dead letters that a caller names: which of them are still to be found, and what one of them is to become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from qbridge_core.contract.checks import DEFAULT_MAX_MESSAGE_BYTES, check_body, check_headers
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.contract.headers import DUE_AT, HISTORY, REPLAYS, TASK_ID, meta_replays, meta_text
from qbridge_core.contract.history import read_history, write_history
from qbridge_core.contract.message import new_id
from qbridge_core.errors import ConfigurationError, LettersGoneError
from qbridge_core.runtime.clock import SYSTEM_CLOCK, Clock


class Edit(NamedTuple):
    """What is to be different in a letter that goes back.

    Attributes:
        body: the new bytes; ``None`` keeps those of the producer.
        headers: the new headers, all of them; ``None`` keeps those of the producer.
        message_id: a new one: it is another message.
    """

    body: bytes | None
    headers: Mapping[str, str] | None
    message_id: str


class Chosen:
    """The letters that a caller has named, until each one is found. For one thread.

    An id that is named several times stands for as many letters: those of other programs may share one.

    Args:
        ids: of the letters.
        edit: what is to be different in the only one.

    Attributes:
        ids: without repetitions, in the order in which they were named.
        edit: as above.
    """

    def __init__(self, ids: Iterable[str], edit: Edit | None = None) -> None:
        self._missing = Counter(ids)
        self.ids = tuple(self._missing)
        self.edit = edit

    @property
    def is_complete(self) -> bool:
        """Whether all are found."""
        return not self._missing

    def take(self, letter_id: str) -> bool:
        """Whether a letter with this id is wanted; it counts as found then."""
        count = self._missing.get(letter_id, 0)
        if count > 1:
            self._missing[letter_id] = count - 1
        elif count:
            del self._missing[letter_id]
        return count > 0

    def finish(self, done: int) -> int:
        """Return how many letters were done.

        Raises:
            LettersGoneError: some were not found.
        """
        if self._missing:
            raise LettersGoneError(list(self._missing.elements()), done)
        return done


def check_letters(letters: object) -> Chosen:
    """Return the letters that a caller named.

    Raises:
        ConfigurationError: they are neither letters nor ids.
    """
    return Chosen(_ids(letters))


def check_choice(
    letters: object,
    *,
    limit: int | None = None,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    most: int = DEFAULT_MAX_MESSAGE_BYTES,
) -> Chosen | None:
    """Return what a caller named; ``None`` when all letters are meant.

    Args:
        letters: those that were given, or their ids.
        limit: cannot be combined with them.
        body: new bytes for the only one.
        headers: new headers for the only one.
        most: the client's ``max_message_bytes``.

    Raises:
        ConfigurationError: the arguments make no sense.
        MessageTooLargeError: the new body is too long.
        PayloadError: the new headers cannot be kept.
    """
    edits = body is not None or headers is not None
    if letters is None:
        if edits:
            raise ConfigurationError("body and headers change one letter: name it, as in letters=[letter]")
        return None
    ids = _ids(letters)
    if limit is not None:
        raise ConfigurationError("limit means nothing beside letters: all that are named are meant")
    if not edits:
        return Chosen(ids)
    if len(ids) != 1:
        raise ConfigurationError(f"body and headers change one letter, and {len(ids)} are named")
    new_body = None if body is None else check_body(body, most)
    return Chosen(ids, Edit(new_body, None if headers is None else dict(check_headers(headers)), new_id()))


def check_after(after: object) -> str | None:
    """Return the id of the letter behind which a listing begins; ``None`` for the beginning.

    Raises:
        ConfigurationError: it is neither a letter nor an id.
    """
    return None if after is None else _id(after)


def replay_headers(
    meta: Mapping[str, Any],
    edit: Edit | None = None,
    message_id: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, str | int]:
    """What QBridge writes on a letter that goes back: how often it did, and on an edited one the id of its task.

    It keeps its history, and may run from now on. When it was sent a backend carries on, as it does in all copies.

    Args:
        meta: what it has written there before.
        edit: what is to be different.
        message_id: the letter's own.
        clock: tells what time it is.
    """
    headers: dict[str, str | int] = {
        REPLAYS: meta_replays(meta) + 1,
        DUE_AT: round(clock.wall() * 1000),
    }
    if history := write_history(read_history(meta.get(HISTORY))):
        headers[HISTORY] = history
    if edit is not None and (task_id := meta_text(meta, TASK_ID) or message_id):
        headers[TASK_ID] = task_id
    return headers


def _ids(letters: object) -> list[str]:
    if isinstance(letters, str | bytes | DeadLetter) or not isinstance(letters, Iterable):
        raise ConfigurationError("letters takes several dead letters, or their ids; one of them as letters=[letter]")
    return [_id(letter) for letter in letters]


def _id(letter: object) -> str:
    found = letter.id if isinstance(letter, DeadLetter) else letter
    if not isinstance(found, str):
        raise ConfigurationError(f"a letter is named by itself or by its id, not by {type(letter).__name__}")
    if not found:
        raise ConfigurationError("this letter has no id: it comes from a backend without the capability 'letters'")
    return found
