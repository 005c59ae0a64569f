"""``qbridge dlq replay``."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import repeat
from typing import Final

import click

from qbridge_core.cli.asking import ask, yes_option
from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.acting import Deed, letters, logged, parts
from qbridge_core.cli.commands.dlq.options import Choice, Desk, choice_options, on_letters
from qbridge_core.cli.letters.pace import turns
from qbridge_core.cli.output import json_option, print_json
from qbridge_core.errors import QBridgeError
from qbridge_core.runtime.logtexts import escaped

_AT_ONCE: Final = 1_000
_HIGHEST_RATE: Final = 1_000_000.0


@click.command(cls=Command)
@on_letters
@choice_options
@click.option("--target", metavar="QUEUE", help="Where to, instead of the queue that each one came from.")
@click.option(
    "--rate", type=click.FloatRange(min=0, max=_HIGHEST_RATE, min_open=True), help="At most so many letters a second."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@yes_option
@json_option
def command(
    desk: Desk,
    choice: Choice,
    target: str | None,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send dead letters of QUEUE back to where they came from: those that are named, those that filters choose, or all.

    Letters that come while it runs, and those that fail again, stay for the next time. Killed at any point it loses
    none, and one is there twice at most; start it again for the rest. What cannot go back stays, and ends it.

    With --json an object: queue (the dead-letter queue) and replayed (how many).
    """
    if dry_run:
        _tell(desk, choice, target, as_json)
        return
    client, dead = desk.client, desk.dead
    ids = None if choice.is_whole_queue else choice.ids_in(desk)
    count = client.count(dead).ready if ids is None else len(ids)
    if not count:
        _report(dead, 0, as_json, desk.nothing(choice.filters))
        return
    where = f"to {target}" if target else "to where they came from"
    ask(f"Send {letters(count)} of {dead} back {where}?", yes)
    with logged(lambda done: f"sent {letters(done)} of {dead} back {where}") as deed:
        if ids is None:
            _replay_all(desk, target, rate, count, deed)
        else:
            for some in parts(ids, repeat(_AT_ONCE) if rate is None else turns(rate)):
                deed.do(client.replay, dead, letters=some, target=target)
    _report(dead, deed.done, as_json, f"sent {letters(deed.done)} of {dead} back")
    deed.finish()


def _replay_all(desk: Desk, target: str | None, rate: float | None, count: int, deed: Deed) -> None:
    """All letters that were there at the beginning, and no more."""
    client, dead = desk.client, desk.dead
    if rate is None:
        try:
            deed.do(client.replay, dead, target=target)
        except BaseException:
            with suppress(QBridgeError):  # for the log: how many went before it ended
                deed.done = max(0, count - client.count(dead).ready)
            raise
        return
    for size in turns(rate):
        wanted = min(size, count - deed.done)
        if wanted <= 0 or not deed.do(client.replay, dead, target=target, limit=wanted):
            return


def _tell(desk: Desk, choice: Choice, target: str | None, as_json: bool) -> None:
    """Say what would go where."""
    dead = desk.dead
    where = Counter(target or letter.source_queue for letter in choice.find(desk))
    if as_json:
        print_json({"queue": dead, "replayed": 0, "would_replay": where.total()})
        return
    for name, count in where.most_common():
        goes = f"would go to {escaped(name)}" if name else "say no queue to go back to: give them a --target"
        click.echo(f"{letters(count)} of {dead} {goes}")
    if not where:
        click.echo(f"no letters of {dead} would be sent")


def _report(dead: str, done: int, as_json: bool, text: str) -> None:
    if as_json:
        print_json({"queue": dead, "replayed": done})
    else:
        click.echo(text)
