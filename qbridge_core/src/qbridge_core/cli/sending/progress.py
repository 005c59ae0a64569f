"""Shows on a terminal how far sending has come."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from qbridge_core.runtime.clock import monotonic

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Meter:
    """A bar, where the size of the input is known, with the number of tasks and their rate; nothing without a terminal.

    Args:
        size: bytes of the input; ``None`` when nobody knows.
        wanted: whether there is anything to show.
    """

    def __init__(self, size: int | None, wanted: bool) -> None:
        self._size = size
        self._shown = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._began = monotonic()
        self._stack = ExitStack()
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        if self._shown:
            bar = self._stack.enter_context(_bar(self._size is not None))
            self._bar = bar, bar.add_task("send", total=self._size, what="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def show(self, read: int, sent: int) -> None:
        """Show how many bytes of the input are done with, and how many tasks that was."""
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=read, what=f"{sent:,} tasks, {self._rate(sent):,.0f} per second")

    def summary(self, sent: int) -> str:
        """How long it took, and how quick it was; "" where nobody watches."""
        return f" in {monotonic() - self._began:.1f} s, {self._rate(sent):,.0f} per second" if self._shown else ""

    def _rate(self, sent: int) -> float:
        return sent / max(monotonic() - self._began, 1e-3)


def _bar(has_end: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) if has_end else (SpinnerColumn(),)
    return Progress(*columns, TextColumn("{task.fields[what]}"), console=Console(stderr=True), transient=True)
