"""``qbridge dlq list``."""

from __future__ import annotations

from itertools import islice
from typing import Final

import click

from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.acting import letters
from qbridge_core.cli.commands.dlq.options import Desk, filter_options, on_letters
from qbridge_core.cli.letters.filters import Filters
from qbridge_core.cli.letters.jsonform import summary
from qbridge_core.cli.letters.text import error_of
from qbridge_core.cli.letters.times import shown
from qbridge_core.cli.output import json_option, print_json_array, print_table
from qbridge_core.contract.dead_letter import DeadLetter

_COLUMNS: Final = ("id", "failed at (UTC)", "reason", "error", "runs", "task")
_MESSAGE: Final = 60


@click.command(cls=Command)
@on_letters
@filter_options
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="At most so many; 0 means all."
)
@json_option
def command(desk: Desk, filters: Filters, limit: int, as_json: bool) -> None:
    """List the dead letters of QUEUE, oldest first.

    With --json an array of objects: id, task_id, reason, exception_type, exception_message, place, attempts, crashes,
    replays, first_failed_at, last_failed_at, sent_at, source_queue, worker, bytes.
    """
    found = islice(filter(filters.accept, desk.letters()), limit or None)
    if as_json:
        print_json_array(map(summary, found))
        return
    rows = [_row(letter) for letter in found]
    if not rows:
        click.echo(desk.nothing(filters), err=True)
        return
    print_table(_COLUMNS, rows)
    if len(rows) == limit and (held := desk.client.count(desk.dead).ready) > limit:
        click.echo(f"only {letters(limit)} shown; {desk.dead} holds {held:,} (--limit 0 shows all)", err=True)


def _row(letter: DeadLetter) -> tuple[object, ...]:
    error = error_of(letter)
    cut = error if len(error) <= _MESSAGE else f"{error[: _MESSAGE - 1]}…"
    runs = letter.attempts + letter.crashes
    return letter.id, shown(letter.last_failed_at), letter.reason.value, cut, runs, letter.task_id
