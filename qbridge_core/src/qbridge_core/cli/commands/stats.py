"""``qbridge stats``."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import click

from qbridge_core.cli.broker import with_client
from qbridge_core.cli.command import Command
from qbridge_core.cli.exits import Failed
from qbridge_core.cli.interrupts import ended_by_signals
from qbridge_core.cli.output import json_option, on_terminal, print_json, print_table
from qbridge_core.cli.watching.columns import COLUMNS, cells
from qbridge_core.cli.watching.observer import Observer
from qbridge_core.cli.watching.overview import Overview, Row
from qbridge_core.contract.client import QueueClient
from qbridge_core.runtime.logtexts import escaped


@click.command(cls=Command)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(0.1), default=2.0, metavar="SECONDS", help="How often --watch looks; 2."
)
@json_option
@with_client
def command(client: QueueClient, queues: Sequence[str], watch: bool, interval: float, as_json: bool) -> None:
    """Count the messages of each QUEUE, or of all that the broker lists but dead-letter queues.

    Ready are those that wait, in flight those that workers hold, delayed those whose time has not come, dead the
    letters in its dead-letter queue. The oldest is the age of the one that has been ready for longest. What came and
    went in a second is measured from one look to the next, so --watch shows it, or the broker knows it. A question mark
    stands for what the broker does not tell.

    With --json an array with an object for each queue, and with --watch such an array in each line: "queue",
    "dead_letter_queue" (where it is known), "ready", "in_flight", "delayed", "dead", "oldest_age" (seconds),
    "consumers", "in_rate", "out_rate" (in a second), "paused"; null for what the broker does not tell.
    """
    overview = Overview(client, queues)
    if watch:
        _watch(overview, interval, as_json)
        return
    rows = overview.look()
    _print(rows, as_json)
    if not rows:
        raise Failed("no queues are found (RabbitMQ lists its queues with the option management_url only): name them")
    if missing := overview.missing(rows):
        raise Failed(escaped(f"there is no queue {', '.join(map(repr, missing))}"))
    for doubt in overview.doubts(rows):
        click.echo(escaped(doubt), err=True)


def _print(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        print_json([row.as_json() for row in rows])
    elif rows:
        print_table(COLUMNS, map(cells, rows))


def _watch(overview: Overview, interval: float, as_json: bool) -> None:
    """Print each look, below each other; the first one that fails ends it where nothing was seen before."""
    number, told = 0, ""
    absent: Collection[str] = ()
    try:
        with ended_by_signals(), Observer(overview, interval) as observer:
            while True:
                number, view = observer.next_view(number)
                if view.error:
                    if view.error != told:
                        click.echo(f"the broker does not answer: {escaped(view.error)}", err=True)
                elif as_json:
                    click.echo(json.dumps([row.as_json() for row in view.rows]))
                else:
                    _clear()
                    _print(view.rows, as_json=False)
                for queue in sorted({*view.absent}.difference(absent)):
                    click.echo(escaped(f"there is no queue {queue!r}"), err=True)
                told, absent = view.error, view.absent
    except KeyboardInterrupt:
        return


def _clear() -> None:
    """Each look at the same place of a terminal; below each other in a file."""
    if on_terminal():
        click.clear()
    else:
        click.echo()
