"""Looks again and again, in a thread of its own, so that keys are heard while a broker does not answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from qbridge_core.cli.watching.overview import Overview, Row
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.clock import monotonic

_REMEMBERED: Final = 60
_NOTHING: Final[Mapping[str, Sequence[float | None]]] = {}


@dataclass(frozen=True, slots=True)
class View:
    """What is known now.

    Attributes:
        rows: what the last look has brought.
        rates_in: the last rates of each queue, oldest first; ``None`` where there was none.
        rates_out: the same of what went out.
        looks: how many looks have brought something.
        error: why the last one brought nothing, else "".
        since: when the broker was last heard (monotonic time).
        absent: queues that somebody has named and that do not exist, as far as the broker lists what does.
    """

    rows: Sequence[Row] = ()
    rates_in: Mapping[str, Sequence[float | None]] = field(default_factory=lambda: _NOTHING)
    rates_out: Mapping[str, Sequence[float | None]] = field(default_factory=lambda: _NOTHING)
    looks: int = 0
    error: str = ""
    since: float = 0.0
    absent: Collection[str] = ()


class Observer:
    """Looks every ``interval`` seconds, as long as it is entered.

    Args:
        overview: what to look at.
        interval: seconds.
    """

    def __init__(self, overview: Overview, interval: float) -> None:
        self._overview = overview
        self._interval = interval
        self._in: dict[str, deque[float | None]] = {}
        self._out: dict[str, deque[float | None]] = {}
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._view = View(since=monotonic())
        self._number = 0
        self._failure: BaseException | None = None

    def __enter__(self) -> Observer:
        threading.Thread(target=self._run, name="qbridge-observer", daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()

    @property
    def view(self) -> View:
        """What is known now.

        Raises:
            BaseException: what nobody has foreseen.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            return self._view

    def next_view(self, number: int) -> tuple[int, View]:
        """Wait for a view that is newer than the one with a number; return it with its own."""
        with self._changed:
            # Not for ever: a signal must get through.
            while self._number == number and self._failure is None:
                self._changed.wait(0.5)
        return self._number, self.view

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                began = monotonic()
                self._publish(self._look())
                self._ended.wait(max(0.0, began + self._interval - monotonic()))
        except BaseException as exc:  # noqa: BLE001 - the main thread raises it
            with self._changed:
                self._failure = exc
                self._changed.notify_all()

    def _publish(self, view: View) -> None:
        with self._changed:
            self._view = view
            self._number += 1
            self._changed.notify_all()

    def _look(self) -> View:
        last = self._view
        try:
            rows = self._overview.look()
        except QBridgeError as exc:
            return replace(last, error=str(exc) or type(exc).__name__)
        rates_in = _remember(self._in, {row.queue: row.in_rate for row in rows})
        rates_out = _remember(self._out, {row.queue: row.out_rate for row in rows})
        return View(rows, rates_in, rates_out, last.looks + 1, "", monotonic(), self._overview.absent(rows))


def _remember(
    histories: dict[str, deque[float | None]], rates: Mapping[str, float | None]
) -> Mapping[str, Sequence[float | None]]:
    """Add to what is remembered of each queue; forget those that are gone."""
    for gone in histories.keys() - rates.keys():
        del histories[gone]
    for queue, rate in rates.items():
        histories.setdefault(queue, deque(maxlen=_REMEMBERED)).append(rate)
    return {queue: tuple(history) for queue, history in histories.items()}
