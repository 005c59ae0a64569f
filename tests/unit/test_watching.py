"""What ``qbridge top`` draws, without a broker."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from qbridge_core.cli.watching import overview
from qbridge_core.cli.watching.columns import duration, rate
from qbridge_core.cli.watching.observer import View
from qbridge_core.cli.watching.overview import Overview, Row
from qbridge_core.cli.watching.screen import Position, draw, short, sparkline
from qbridge_memory import MemoryClient

_TOP = Position()


def queue(name: str, **fields: object) -> Row:
    """A queue of which the broker tells what is given."""
    empty = dict.fromkeys(Row.__slots__) | {"queue": name, "ready": 0, "delayed": 0}
    return Row(**(empty | fields))  # type: ignore[arg-type]


def drawn(view: View, position: Position = _TOP, width: int = 120, height: int = 12) -> str:
    """The text of the screen."""
    console = Console(width=width, height=height, file=io.StringIO())
    console.print(draw(view, position, "memory://", 2.0, console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


class Listing(MemoryClient):
    """Counts how often it is asked for all queues."""

    asked = 0

    def queues(self) -> dict[str, str | None]:
        """As the backend does."""
        self.asked += 1
        return super().queues()


def test_all_queues_are_listed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each look, since on Redis that goes through all keys; dead-letter queues are no rows."""
    with Listing() as client:
        client.declare("mails", "mails.dead")
        seen = Overview(client, [])
        assert [row.queue for row in seen.look()] == ["mails"]
        client.declare("more")
        assert [row.queue for row in seen.look()] == ["mails"]
        assert client.asked == 1
        monkeypatch.setattr(overview, "monotonic", lambda: time.monotonic() + 11.0)
        assert [row.queue for row in seen.look()] == ["mails", "more"]


def test_a_sparkline_shows_the_last_values() -> None:
    """To the scale of the highest one; a blank where nothing was measured, other signs where bars cannot be shown."""
    assert sparkline([0, 1, None, 5, 10], 10, 6) == " ▁▁ ▅█"
    assert sparkline([1, 2, 3], 3, 2) == "▆█"
    assert sparkline([0.0, 0.0], 0.0, 3) == " ▁▁"
    assert sparkline([0, 10], 10, 2, "ascii") == "_#"


@pytest.mark.parametrize("count", [0, 99_999, 100_000, 999_999, 1_000_000, 12_345_678, 999_999_999, 10**10])
def test_a_number_fits_into_its_column(count: int) -> None:
    """Whatever its size."""
    assert len(short(count)) <= 6


def test_what_the_broker_does_not_tell_is_shown_as_that() -> None:
    """A question mark, and what it means; a rate that is not measured yet is another thing."""
    screen = drawn(View([queue("mails")], looks=1))
    assert screen.splitlines()[3].split() == ["mails", "0", "?", "0", "?", "?", "?", "…", "…"]
    assert "? the broker does not tell" in screen
    assert drawn(View([queue("mails")], looks=2)).splitlines()[3].split()[-2:] == ["?", "?"]


def test_a_queue_that_does_not_exist_is_named() -> None:
    """Its zeros alone would look healthy."""
    screen = drawn(View([queue("mails"), queue("emials")], looks=1, absent={"emials"}))
    assert screen.splitlines()[1].rstrip() == "there is no queue 'emials'"


def test_a_screen_never_has_more_lines_than_the_terminal() -> None:
    """Nor longer ones, however many queues there are and whatever they are called."""
    rows = [queue(f"{'ü' * number}\x1b[31m", ready=number, paused=number == 3) for number in range(200)]
    view = View(rows, looks=1, error="x" * 500)
    for width, height in ((40, 8), (79, 24), (200, 50)):
        lines = drawn(view, Position(top=5), width, height).splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert "\x1b[31m" not in "".join(lines)


def test_keys_move_within_what_there_is() -> None:
    """Not above the first queue, not below the last page; another order starts with its first."""
    top = Position()
    assert top.after("up", 20, 5).top == 0
    assert top.after("page down", 20, 5).top == 5
    assert top.after("end", 20, 5).top == 15
    assert top.after("end", 3, 5).top == 0
    assert Position(15).after("", 6, 5).top == 1
    assert "mails" in drawn(View([queue("a"), queue("mails", ready=3)], looks=1), top.after("sort", 2, 1), height=6)


def test_durations_and_rates_are_short() -> None:
    """In their largest unit, with the digits that matter."""
    assert [duration(s) for s in (None, 0.4, 59, 60, 7200, 200_000)] == ["?", "0 s", "59 s", "1 min", "2 h", "2 d"]
    assert [rate(r) for r in (None, 0.0, 3.14, 99.96, 1234.5)] == ["?", "0.0", "3.1", "100.0", "1,234"]
