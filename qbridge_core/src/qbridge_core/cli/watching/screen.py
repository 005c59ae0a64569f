"""Draws the screen of ``qbridge top``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qbridge_core.cli.output import UNKNOWN
from qbridge_core.cli.watching.columns import duration, rate
from qbridge_core.cli.watching.observer import View
from qbridge_core.cli.watching.overview import Row
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logtexts import escaped

_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-:=+*#"
_COLUMNS: Final = (
    ("ready", 6), ("in flight", 9), ("delayed", 7), ("dead", 6), ("oldest", 6), ("consumers", 10),
    ("in/s", 6), ("out/s", 6),
)  # fmt: skip
_LEFT_OUT: Final = {"delayed", "oldest", "consumers"}
_NARROW: Final = 74
_LONGEST_NAME: Final = 40
_SHORTEST_LINE: Final = 6
_LONGEST_LINE: Final = 30
_IN_FULL: Final = 100_000
_TO_MEASURE: Final = 2  # looks, where the broker knows no rates itself
_FRAME: Final = 5  # lines that are no queues: two above the table, its head, two below
_ORDERS: Final[tuple[tuple[str, Callable[[Row], tuple[float, str]]], ...]] = (
    ("name", lambda row: (0, row.queue)),
    ("ready", lambda row: (-row.ready, row.queue)),
    ("dead", lambda row: (-(row.dead or 0), row.queue)),
    ("age", lambda row: (-(row.oldest_age or 0.0), row.queue)),
)


@dataclass(frozen=True, slots=True)
class Position:
    """What somebody has chosen to see: the first queue, and by what they are sorted."""

    top: int = 0
    order: int = 0

    def after(self, key: str, queues: int, lines: int) -> Position:
        """The position after a key was pressed, with so many queues, of which so many fit."""
        page = max(1, lines)
        step = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -queues, "end": queues}.get(key, 0)
        order = (self.order + 1) % len(_ORDERS) if key == "sort" else self.order
        return replace(self, top=max(0, min(self.top + step, queues - page)), order=order)


def room(height: int) -> int:
    """How many queues fit on a screen."""
    return max(1, height - _FRAME)


def draw(view: View, position: Position, title: str, interval: float, console: Console) -> RenderableType:
    """The whole screen."""
    fits = room(console.height)
    rows = sorted(view.rows, key=_ORDERS[position.order][1])[position.top : position.top + fits]
    head = Text.assemble(
        ("qbridge top", "bold"), f"  {escaped(title)}  {time.strftime('%H:%M:%S')}, every {interval:g} s",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    return Group(head, _trouble(view), _table(rows, view, console), Text(), _foot(view, position, fits))


def _trouble(view: View) -> Text:
    if view.error:
        away = duration(monotonic() - view.since)
        text = f"the broker has not answered for {away}: {escaped(view.error)}"
        return Text(text, style="bold red", no_wrap=True, overflow="ellipsis")
    if not view.looks:
        return Text("asking the broker", style="dim")
    if not view.rows:
        return Text("no queues; RabbitMQ lists its queues with management_url only: name them", style="yellow")
    if view.absent:
        names = ", ".join(map(repr, sorted(view.absent)))
        return Text(f"there is no queue {escaped(names)}", style="yellow", no_wrap=True, overflow="ellipsis")
    return Text()


def _table(rows: Sequence[Row], view: View, console: Console) -> Table:
    narrow = console.width < _NARROW
    columns = [(name, width) for name, width in _COLUMNS if not narrow or name not in _LEFT_OUT]
    names = min(max((cell_len(escaped(row.queue)) for row in rows), default=0), _LONGEST_NAME)
    taken = max(names, len("queue")) + sum(1 + width for _, width in columns)
    lines = min((console.width - taken) // 2 - 1, _LONGEST_LINE)
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="bold",
        style="dim" if view.error else "",
    )  # fmt: skip
    table.add_column("queue", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, width in columns:
        table.add_column(name, justify="right", no_wrap=True, width=width)
        if name in {"in/s", "out/s"} and lines >= _SHORTEST_LINE:
            table.add_column(width=lines, no_wrap=True)
    for row in rows:
        texts = _texts(row, view)
        table.add_row(Text(escaped(row.queue), style="bold"), *_line_up(row, view, columns, texts, lines, console))
    return table


def _line_up(
    row: Row, view: View, columns: Sequence[tuple[str, int]], texts: Mapping[str, Text], width: int, console: Console
) -> Iterator[Text]:
    histories = {"in/s": view.rates_in.get(row.queue, ()), "out/s": view.rates_out.get(row.queue, ())}
    most = max((each for history in histories.values() for each in history if each is not None), default=0.0)
    for name, _ in columns:
        yield texts[name]
        if name in histories and width >= _SHORTEST_LINE:
            yield Text(sparkline(histories[name], most, width, console.encoding), style=texts[name].style)


def _texts(row: Row, view: View) -> dict[str, Text]:
    unmeasured = "…" if view.looks < _TO_MEASURE else UNKNOWN
    consumers = _count(row.consumers, "bold red" if row.ready and not row.paused else "", "")
    return {
        "ready": _count(row.ready, "dim", "green"),
        "in flight": _count(row.in_flight, "dim", "cyan"),
        "delayed": _count(row.delayed, "dim", "yellow"),
        "dead": _count(row.dead, "dim", "bold red"),
        "oldest": Text("" if row.oldest_age == 0.0 and not row.ready else duration(row.oldest_age)),
        "consumers": Text(f"{consumers} paused", style="bold yellow") if row.paused else consumers,
        "in/s": Text(unmeasured if row.in_rate is None else rate(row.in_rate), style="green"),
        "out/s": Text(unmeasured if row.out_rate is None else rate(row.out_rate), style="cyan"),
    }


def _count(value: int | None, none: str, some: str) -> Text:
    if value is None:
        return Text(UNKNOWN, style="dim")
    return Text(short(value), style=some if value else none)


def short(count: int) -> str:
    """A number in six characters."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size and count >= _IN_FULL:
            return f"{count // size}{unit}" if count >= 100 * size else f"{count * 10 // size / 10}{unit}"
    return f"{count:,}"


def sparkline(values: Sequence[float | None], most: float, width: int, encoding: str = "utf-8") -> str:
    """The last values as bars, the newest to the right; a blank where there was none."""
    bars = _BARS if encoding.lower().startswith("utf") else _PLAIN_BARS
    shown = values[-width:]
    text = "".join(
        " " if value is None else bars[0] if most <= 0 else bars[min(int(value / most * len(bars)), len(bars) - 1)]
        for value in shown
    )
    return text.rjust(width)


def _foot(view: View, position: Position, fits: int) -> Text:
    parts = ["q quits", f"s sorts (by {_ORDERS[position.order][0]})"]
    if len(view.rows) > fits:
        last = min(position.top + fits, len(view.rows))
        parts.append(f"arrows move ({position.top + 1} to {last} of {len(view.rows)})")
    if any(None in (row.in_flight, row.dead, row.oldest_age, row.consumers) for row in view.rows):
        parts.append(f"{UNKNOWN} the broker does not tell")
    return Text("   ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")
