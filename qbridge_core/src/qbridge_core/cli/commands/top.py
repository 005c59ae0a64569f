"""``qbridge top``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from qbridge_core.cli.broker import chosen_url, url_options
from qbridge_core.cli.command import Command
from qbridge_core.cli.interrupts import ended_by_signals
from qbridge_core.cli.output import on_terminal
from qbridge_core.cli.watching.keys import keyboard
from qbridge_core.cli.watching.observer import Observer
from qbridge_core.cli.watching.overview import Overview
from qbridge_core.contract.registry import connect
from qbridge_core.contract.url import BrokerURL
from qbridge_core.runtime.clock import monotonic

_GLANCE: Final = 0.2


@click.command(cls=Command)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, metavar="SECONDS", help="How often it looks; 2.")
@url_options
def command(queues: Sequence[str], interval: float, url: str | None, url_file: Path | None) -> None:
    """Watch each QUEUE, or all that the broker lists, until q is pressed.

    It shows what "stats" shows, with lines for what came and went lately, both drawn to the same scale. s sorts, arrows
    and page keys move.
    """
    if not on_terminal() or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("top draws on a terminal, and this is none that it can draw on; see stats --watch")
    logging.getLogger("qbridge").addHandler(logging.NullHandler())  # the screen says when the broker is away
    address = chosen_url(url, url_file)
    with connect(address) as client:
        overview = Overview(client, queues)
        try:
            with ended_by_signals(), Observer(overview, interval) as observer:
                _show(observer, str(BrokerURL.parse(address)), interval)
        except KeyboardInterrupt:
            return


def _show(observer: Observer, title: str, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from qbridge_core.cli.watching.screen import Position, draw, room

    console, position, shown = Console(highlight=False), Position(), None
    with keyboard() as press, Live(console=console, screen=True, auto_refresh=False) as live:
        while (key := press(_GLANCE)) != "quit":
            view = observer.view
            position = position.after(key, len(view.rows), room(console.height))
            state = id(view), position, console.size, int(monotonic())  # the clock goes on
            if state != shown:
                live.update(draw(view, position, title, interval, console), refresh=True)
                shown = state
