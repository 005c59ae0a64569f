"""``qbridge dlq delete``."""

from __future__ import annotations

from itertools import repeat
from typing import Final

import click

from qbridge_core.cli.asking import ask, yes_option
from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.acting import letters, logged, parts
from qbridge_core.cli.commands.dlq.options import Choice, Desk, choice_options, on_letters
from qbridge_core.cli.output import json_option, print_json

_AT_ONCE: Final = 1_000


@click.command(cls=Command)
@on_letters
@choice_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@yes_option
@json_option
def command(desk: Desk, choice: Choice, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete dead letters of QUEUE: those that are named, those that filters choose, or all.

    Nothing brings them back; export keeps them in a file. Letters that come meanwhile stay.

    With --json an object: queue (the dead-letter queue) and deleted (how many).
    """
    dead = desk.dead
    ids = choice.ids_in(desk)
    if not ids or dry_run:
        text = f"would delete {letters(len(ids))} of {dead}" if ids else desk.nothing(choice.filters)
        _report(dead, 0, as_json, text, {"would_delete": len(ids)} if dry_run else {})
        return
    ask(f"Delete {letters(len(ids))} of {dead}? Nothing brings them back.", yes)
    with logged(lambda done: f"deleted {letters(done)} of {dead}") as deed:
        for some in parts(ids, repeat(_AT_ONCE)):
            deed.do(desk.client.delete_letters, dead, letters=some)
    _report(dead, deed.done, as_json, f"deleted {letters(deed.done)} of {dead}")
    deed.finish()


def _report(dead: str, done: int, as_json: bool, text: str, more: dict[str, int] | None = None) -> None:
    if as_json:
        print_json({"queue": dead, "deleted": done, **(more or {})})
    else:
        click.echo(text)
