"""What commands that take letters out of a queue have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qbridge_core.cli.asking import log_deed
from qbridge_core.cli.interrupts import ended_by_signals
from qbridge_core.cli.output import counted
from qbridge_core.errors import LettersGoneError


class Deed:
    """Counts what was done to letters."""

    def __init__(self) -> None:
        self.done = 0
        self._gone: list[str] = []

    def do(self, act: Callable[..., int], *args: Any, **kwargs: Any) -> int:
        """Do something with several letters; those that are gone do not keep the next ones from it."""
        try:
            done = act(*args, **kwargs)
        except LettersGoneError as exc:
            done = exc.done
            self._gone += exc.ids
        self.done += done
        return done

    def finish(self) -> None:
        """Raise ``LettersGoneError`` where some were gone."""
        if self._gone:
            raise LettersGoneError(self._gone, self.done)


@contextmanager
def logged(what: Callable[[int], str]) -> Iterator[Deed]:
    """Log who did what to how many letters, also where it was ended halfway.

    Args:
        what: the text for so many letters.
    """
    deed = Deed()
    try:
        with ended_by_signals():
            yield deed
    except BaseException:
        log_deed(f"{what(deed.done)}, and perhaps more before it ended")
        raise
    log_deed(what(deed.done))


def parts(ids: Sequence[str], sizes: Iterator[int]) -> Iterator[Sequence[str]]:
    """The ids, some at a time."""
    start = 0
    while start < len(ids):
        size = next(sizes)
        yield ids[start : start + size]
        start += size


def letters(count: int) -> str:
    """So many letters, in words."""
    return counted(count, "letter")
