"""Draw docs/top.svg, what `qbridge top` shows in a terminal of a Redis server with busy workers.

python scripts/draw-top.py [FILE]. It needs redis-server and the tools of `make env`, and takes half a minute.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from rich import terminal_theme
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

from qbridge_core import QueueClient, TaskManager, connect

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.brokers import RedisBroker  # noqa: E402
from support.terminal import Terminal  # noqa: E402

_SIZE = (124, 11)
_SECONDS = 25.0
_TURN = 0.25


def worker(client: QueueClient, queue: str, seconds: float, fails_every: int = 0) -> TaskManager:
    """A worker whose tasks take so long, and of which one in so many fails."""
    count = 0

    def handle(number: int) -> None:
        nonlocal count
        count += 1
        time.sleep(seconds * (1 + math.sin(number)))
        if fails_every and count % fails_every == 0:
            raise ConnectionError("no answer")

    return TaskManager(client, handle, queue, f"{queue}.dead", max_workers=4, max_retries=0)


def be_busy(url: str, done: Callable[[], bool]) -> None:
    """Send to a queue that keeps up, one that does not, one that fails now and then, and one that is paused."""
    with connect(url) as client, ExitStack() as workers:
        client.pause("reports")
        for queue, seconds, fails in (
            ("emails", 0.004, 0),
            ("thumbnails", 0.03, 0),
            ("webhooks", 0.02, 9),
            ("reports", 1, 0),
        ):
            workers.enter_context(worker(client, queue, seconds, fails))
        turn = 0
        while not done():
            wave = 1 + math.sin(turn / 6)
            client.send_many("emails", range(turn, turn + 10 + int(60 * wave)))
            client.send_many("thumbnails", range(turn, turn + 10 + int(25 * wave)))
            client.send_many("webhooks", range(turn, turn + turn % 7))
            client.send("emails", turn, delay=3600.0)
            client.send("reports", turn)
            time.sleep(_TURN)
            turn += 1


def picture(terminal: Terminal) -> str:
    """The screen as SVG; without the fonts that Rich would have a reader's browser load from another site."""
    console = Console(record=True, width=_SIZE[0], file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for line in terminal.cells:
        runs = (("".join(each for each, _ in run), style) for style, run in groupby(line, key=lambda cell: cell[1]))
        console.print(Text.assemble(*(part for run in runs for part in _parted(*run))), crop=True)
    begin, end = CONSOLE_SVG_FORMAT.index("@font-face"), CONSOLE_SVG_FORMAT.index(".{unique_id}-matrix")
    code = CONSOLE_SVG_FORMAT[:begin] + CONSOLE_SVG_FORMAT[end:]
    return console.export_svg(title="qbridge top", theme=terminal_theme.MONOKAI, code_format=code, unique_id="top")


def _parted(text: str, style: str) -> Iterator[tuple[str, str]]:
    """A text apart from the gaps in it: so each column has a place of its own, whatever font the reader has."""
    for part in re.split("( {2,})", text):
        yield part, "" if part.isspace() else f"{style} not dim"


def main(target: Path) -> None:
    """Draw the picture."""
    done = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        broker = RedisBroker(folder)
        broker.start()
        thread = threading.Thread(target=be_busy, args=(broker.url, done.is_set))
        thread.start()
        try:
            command = [sys.executable, "-m", "qbridge_core", "top", "--interval", "0.8", "--url", broker.url]
            with Terminal(command, Path(folder), os.environ, _SIZE) as terminal:
                terminal.wait_for("thumbnails", "webhooks", "reports")
                end = time.monotonic() + _SECONDS
                while time.monotonic() < end:
                    terminal.wait_for("qbridge top")
                    time.sleep(0.1)
                target.write_text(picture(terminal))
                terminal.type("q")
                terminal.ended()
        finally:
            done.set()
            thread.join()
            broker.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "top.svg")
