"""Goes through any number of letters, a page at a time, so that few bodies are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qbridge_core.cli.exits import Failed
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.errors import LettersGoneError

_FIRST_PAGE: Final = 20
_LARGEST_PAGE: Final = 1_000
_PAGE_BYTES: Final = 16 * 1024 * 1024
"""What the next page should have at most, as far as those before it tell."""


def letters_of(client: QueueClient, queue: str, most: int | None = None) -> Iterator[DeadLetter]:
    """The letters of a queue, oldest first; where the backend cannot page, in one piece.

    Args:
        client: a connected client.
        queue: the dead-letter queue.
        most: stop behind so many.

    Raises:
        UnsupportedError: the backend cannot list letters.
        Failed: letters that were on the last page are all gone, so that nobody knows where to go on.
    """
    if not client.capabilities.letters:
        yield from client.dead_letters(queue, client.count(queue).ready if most is None else most)
        return
    pages = _Pages(client, queue)
    left = most
    while left is None or left > 0:
        page = pages.next(left)
        if not page:
            return
        yield from page
        left = None if left is None else left - len(page)


class _Pages:
    """Where a listing is, and how large its next page should be.

    Equal letters of other programs may share an id, and a listing begins behind the first that has it: so it is known
    where each id was first, and what was seen since then is left out.
    """

    def __init__(self, client: QueueClient, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._seen = self._bytes = 0
        self._first: dict[int, int] = {}  # hashes of ids, which take less memory
        self._anchors: list[tuple[int, str]] = []

    def next(self, wanted: int | None) -> list[DeadLetter]:
        size = self._size if wanted is None else min(self._size, wanted)
        page = self._behind(size) if self._seen else self._client.dead_letters(self._queue, size)
        places = [(self._first.setdefault(hash(each.id), self._seen + i), each.id) for i, each in enumerate(page)]
        self._anchors = sorted(places)
        self._seen += len(page)
        self._bytes += sum(len(letter.body) for letter in page)
        return page

    @property
    def _size(self) -> int:
        if not self._seen:
            return _FIRST_PAGE
        return max(1, min(_LARGEST_PAGE, _PAGE_BYTES * self._seen // (self._bytes or 1)))

    def _behind(self, size: int) -> list[DeadLetter]:
        """The next page, behind the last letter of the one before that is still there."""
        gone = 0
        while self._anchors:
            place, anchor = self._anchors[-1]
            again = max(0, self._seen - 1 - place - gone)
            try:
                return self._client.dead_letters(self._queue, size + again, after=anchor)[again:]
            except LettersGoneError:
                self._anchors.pop()
                gone += 1
        raise Failed(
            f"the letters of {self._queue} are being taken while they are listed: nobody knows where the next page "
            "begins; do it again"
        )
